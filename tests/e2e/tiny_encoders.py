"""Encoder checkpoints with small random weights, in the folder layout of Hugging Face and of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
PROMPTS = {"query": "query: ", "passage": "passage: "}
_WORDS = [
    "the", "a", "of", "and", "to", "in", "is", "was", "ada", "lovelace", "london", "paris", "wrote", "walked", "read",
    "note", "notes", "query", "passage", ":", ",", ".", "waiter", "table", "soup", "long", "short", "text", "texts",
    "number", "first", "second", "third", "question", "answer", "engine", "water", "fire",
]  # fmt: skip
_LENGTH = 48


def write_checkpoints(folder: Path) -> dict[str, Path]:
    """Write one checkpoint for each task.

    Returns:
        Their folders by the name of the task.
    """
    import torch  # noqa: PLC0415 - only where there is an export side
    import transformers as hf  # noqa: PLC0415 - as above

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789é"]
    vocabulary += [f"##{character}" for character in "abcdefghijklmnopqrstuvwxyz0123456789é"]
    kinds = {
        "embed": (hf.BertModel, []),
        "classify": (hf.BertForSequenceClassification, ["negative", "neutral", "positive"]),
        "tag": (hf.BertForTokenClassification, LABELS),
        "rerank": (hf.BertForSequenceClassification, ["LABEL_0"]),
    }
    folders = {}
    for number, (task, (kind, labels)) in enumerate(kinds.items()):
        torch.manual_seed(number)
        names = dict(enumerate(labels)) if labels else {0: "LABEL_0", 1: "LABEL_1"}
        config = hf.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=_LENGTH,
            id2label=names,
            label2id={name: index for index, name in names.items()},
            # The usual weights are so small that random models answer every text alike.
            initializer_range=0.2,
        )
        folders[task] = folder / task
        kind(config).eval().save_pretrained(folders[task])
        _write_tokenizer(folders[task], vocabulary)
    _write_sentence_transformer(folders["embed"])
    return folders


def _write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    import tokenizers  # noqa: PLC0415 - as above

    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    settings = {"tokenizer_class": "BertTokenizerFast", "model_max_length": _LENGTH, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_sentence_transformer(folder: Path) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": _LENGTH, "do_lower_case": False}))
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": PROMPTS, "default_prompt_name": None})
    )
    for name in ("1_Pooling", "2_Normalize"):
        (folder / name).mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
