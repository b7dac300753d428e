"""What transformers makes of texts, to hold the graphs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from headwaiter_export.errors import CorruptCheckpointError
from headwaiter_export.generation.cache import LOWEST
from headwaiter_export.generation.gate import Continuation
from headwaiter_export.progress import Progress
from headwaiter_export.runtime import first_line


@torch.inference_mode()
def continuations(
    model: Any,  # noqa: ANN401 (one of transformers' many classes)
    texts: Sequence[Sequence[int]],
    *,
    limit: int,
    ends: frozenset[int],
    suppressed: Sequence[int],
    progress: Progress,
) -> list[Continuation]:
    """What the unmodified model's `generate` makes of each text, greedily and without padding.

    Whatever a checkpoint asks for besides, such as penalties and forced tokens, is left to whoever decodes.

    Raises:
        CorruptCheckpointError: The model does not run.
    """
    plain = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(ends) or None,
        pad_token_id=min(ends, default=0),
        decoder_start_token_id=model.generation_config.decoder_start_token_id,
        suppress_tokens=list(suppressed) or None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    # Not only as an argument: what that leaves open would be taken from here.
    model.generation_config = plain
    of_length = defaultdict[int, list[int]](list)
    for at, ids in enumerate(texts):
        of_length[len(ids)].append(at)
    found: dict[int, Continuation] = {}
    for length, members in of_length.items():
        # Texts of one length share a run: most of its time is Python's.
        together = torch.tensor([list(texts[at]) for at in members])
        try:
            answer = model.generate(together, attention_mask=torch.ones_like(together))
        except Exception as error:  # families raise many kinds
            raise CorruptCheckpointError(f"transformers does not generate with it: {first_line(error)}") from error
        logits = torch.stack(answer.logits, 1).to(torch.float32)  # (texts, steps, vocab)
        logits[:, :, list(suppressed)] = LOWEST
        for at, tokens, own in zip(members, answer.sequences.tolist(), logits.numpy(), strict=True):
            new = tokens[1 if model.config.is_encoder_decoder else length :]
            count = next((place + 1 for place, token in enumerate(new) if token in ends), len(new))
            found[at] = Continuation(new[:count], own[:count])
        progress.advance(len(members))
    return [found[at] for at in range(len(texts))]
