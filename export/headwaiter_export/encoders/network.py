"""A Hugging Face model, loaded from safetensors without running any code of the checkpoint.

The packed graph needs a model in two parts: tokens to hidden states, and hidden states to scores. `Network` takes
any model apart at its base model, so that no family needs code of its own for its head.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging as transformers_logging

from headwaiter_export.encoders.files import refuse_pickle
from headwaiter_export.errors import CorruptCheckpointError, UnknownArchitectureError

_LOADERS: Final = {
    "base": transformers.AutoModel,
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
    "causal": transformers.AutoModelForCausalLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
}
# "layer.3.output" is the same weight as "layer.0.output", of another layer.
_LAYER_NUMBER: Final = re.compile(r"\.\d+\.")


class Network(nn.Module):
    """A model and its parts.

    Attributes:
        model: The whole model, in eval mode.
        config: Its configuration.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take a loaded model apart."""
        super().__init__()
        self.model = model
        self.config: Any = model.config
        self._prefix = str(model.base_model_prefix)
        accepted = inspect.signature(self.base.forward).parameters
        self._takes_positions = "position_ids" in accepted
        table = getattr(getattr(self.base, "embeddings", None), "token_type_embeddings", None)
        self._has_token_types = table is not None and "token_type_ids" in accepted

    @property
    def base(self) -> nn.Module:
        """The model without its head; the model itself if it has none."""
        return getattr(self.model, self._prefix, self.model)

    @property
    def reads_token_types(self) -> bool:
        """Whether token types make a difference; a table of one row adds the same to every token."""
        return self._has_token_types and self.config.type_vocab_size > 1

    @property
    def position_offset(self) -> int:
        """Number of the first position: RoBERTa and its kin begin behind the padding index."""
        table = getattr(getattr(self.base, "embeddings", None), "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        return 0 if padding is None else int(padding) + 1

    @property
    def positions(self) -> int | None:
        """Tokens of the longest text that the model has positions for; None if it names no limit."""
        stated = getattr(self.config, "max_position_embeddings", None)
        return None if stated is None else int(stated) - self.position_offset

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor | None,
        attention_mask: Any,  # noqa: ANN401
    ) -> Tensor:
        """Tokens to the last layer's hidden states.

        Args:
            input_ids: `(rows, length)`.
            position_ids: `(rows, length)`, from 0 in each text.
            token_type_ids: `(rows, length)`, or None.
            attention_mask: What the model takes for its mask.

        Returns:
            `(rows, length, width)`.
        """
        more: dict[str, Tensor] = {}
        if self._takes_positions:
            more["position_ids"] = position_ids + self.position_offset
        if self._has_token_types:
            # Without it some models look types up by position, which only makes the graph longer.
            more["token_type_ids"] = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        hidden: Tensor = self.base(input_ids=input_ids, attention_mask=attention_mask, **more)[0]
        return hidden

    def scores(self, hidden: Tensor) -> Tensor:
        """Hidden states `(rows, length, width)` to the head's logits.

        Heads read the first token of each row, or all of them, whatever the model's own code does: the base model
        is replaced for one call by one that answers `hidden`.
        """
        base = self.base
        pooler = getattr(base, "pooler", None)
        pooled = None if pooler is None else pooler(hidden)
        setattr(self.model, self._prefix, _Given(BaseModelOutputWithPooling(hidden, pooled)))
        try:
            logits: Tensor = self.model(
                input_ids=hidden.new_zeros(hidden.shape[:2], dtype=torch.int64),
                attention_mask=hidden.new_ones(hidden.shape[:2], dtype=torch.int64),
            ).logits
        finally:
            setattr(self.model, self._prefix, base)
        return logits


class _Given(nn.Module):
    """Answers what it was given, whatever it is asked."""

    def __init__(self, output: BaseModelOutputWithPooling) -> None:
        super().__init__()
        # In a list, where tracing does not take the tensors for state of the module.
        self._output = [output]

    def forward(self, *_: object, **__: object) -> BaseModelOutputWithPooling:
        return self._output[0]


def read_config(folder: Path) -> Any:  # noqa: ANN401 (one of transformers' many classes)
    """Read config.json as transformers understands it.

    Raises:
        CheckpointError: It is for a model that transformers does not know, or does not describe one.
    """
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises many kinds
        text = _first_line(error)
        if "trust_remote_code" in str(error):
            text = "the model's code is in the checkpoint (auto_map); it is never run"
            raise UnknownArchitectureError(f"{folder / 'config.json'}: {text}") from error
        raise CorruptCheckpointError(f"{folder / 'config.json'}: {text}") from error
    if getattr(config, "transformers_weights", None) is not None:
        # It may name a pickle.
        raise UnknownArchitectureError(f"{folder / 'config.json'}: transformers_weights names a file of its own choice")
    return config


def load_network(folder: Path, head: str, attention: str) -> Network:
    """Load the model of a folder, in fp32 and eval mode.

    Args:
        folder: The Transformer's folder.
        head: "base", "sequence", "token", "causal" or "seq2seq".
        attention: Name of the attention implementation.

    Raises:
        CheckpointError: The weights are pickled, missing or not the model's.
    """
    refuse_pickle(folder)
    try:
        with quiet():
            model, notes = _LOADERS[head].from_pretrained(
                folder,
                attn_implementation=attention,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise many kinds
        raise CorruptCheckpointError(f"{folder}: transformers does not load it: {_first_line(error)}") from error
    network = Network(model.eval())
    # An embedding model's pooler is not used; a classifier's is.
    missing = sorted(name for name in notes["missing_keys"] if head != "base" or not name.startswith("pooler."))
    wrong = [*missing, *sorted(str(key) for key, *_ in notes["mismatched_keys"])]
    if wrong:
        raise CorruptCheckpointError(f"{folder}: the weights lack {wrong[0]}, or hold it in another shape")
    beyond = _beyond(network.model, notes["unexpected_keys"])
    if beyond:
        raise CorruptCheckpointError(f"{folder}: the weights hold {beyond[0]}, a layer more than config.json says")
    return network


def _beyond(model: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Weights that are left over and are called like the model's, but for the number of a layer.

    Other weights may be left over: those of a head that is not asked for.
    """

    def kind(name: str) -> str:
        return _LAYER_NUMBER.sub(".", name).removeprefix(f"{model.base_model_prefix}.")

    kinds = {kind(name) for name in model.state_dict()}
    return sorted(name for name in unexpected if _LAYER_NUMBER.search(name) and kind(name) in kinds)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from telling the user about itself."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
