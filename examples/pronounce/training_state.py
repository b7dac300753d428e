"""Everything a stopped training needs to go on as if it had not stopped, in one file.

One safetensors file: the tensors, and the counters as its metadata. One file, because a model from one
moment with counters from another is worse than no checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

_METADATA_KEY = "headwaiter_training"


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        epoch: Epoch in progress, from 0.
        batch: Batches of that epoch already learned from.
        step: Optimiser steps taken.
        seconds: Seconds spent training, over all runs.
        best_epoch: Epochs finished when validation was best; 0 before the first.
        best_wer: Its word error rate without stress.
        epoch_loss: Sum of the losses of this epoch's batches, for the log.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_wer: float = 1.0
    epoch_loss: float = 0.0


class WeightAverage:
    """Exponential moving average of the weights, which is what is validated and kept.

    Averaging does what lowering the learning rate would do, so that the validation curve shows the quality
    to come while the rate is still high.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model's weights."""
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights; early steps move further, for the first weights are random."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [weight.detach() for _, weight in model.named_parameters()]
        torch._foreach_lerp_(list(self.weights.values()), current, 1.0 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite a model's weights with the average."""
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(self.weights[name])


def save_training(
    path: Path, model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write the state atomically."""
    tensors: dict[str, Tensor] = {"rng": torch.get_rng_state()}
    for name, weight in model.named_parameters():
        tensors[f"model.{name}"] = weight.detach()
        tensors[f"average.{name}"] = average.weights[name]
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = value
    temporary = path.with_suffix(".partial")
    # safetensors refuses tensors that share memory; clones are cheap beside that mistake.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(copies, temporary, metadata={_METADATA_KEY: json.dumps(asdict(progress))})
    temporary.replace(path)


def load_training(path: Path, model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore the state into the objects given.

    Raises:
        FileNotFoundError: There is no state.
        KeyError: The state is of another model.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        progress = Progress(**json.loads(file.metadata()[_METADATA_KEY]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"model.{name}"])
            average.weights[name].copy_(tensors[f"average.{name}"])
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    return progress
