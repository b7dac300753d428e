"""The training loop: batches in, checkpoints out, stoppable at any batch."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from headwaiter_export.texts import SAMPLE_FILE
from headwaiter_export.transformer import Transformer, TransformerConfig, save_checkpoint
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

from examples.pronounce import curve
from examples.pronounce.batches import Batch, batch_count, encode_entries, epoch_batches
from examples.pronounce.metrics import error_rates, pronounce
from examples.pronounce.schedule import Trapezoid
from examples.pronounce.tokenizer import BOS_ID, EOS_ID, PAD_ID
from examples.pronounce.training_state import Progress as State
from examples.pronounce.training_state import WeightAverage, load_training, save_training

if TYPE_CHECKING:
    from types import FrameType

    from rich.console import Console
    from tokenizers import Tokenizer

    from examples.pronounce.data import Entry

_BETAS = (0.9, 0.98)  # section 5.3
_MAX_GRADIENT_NORM = 1.0
_SAMPLE_WORDS = 600
_SAMPLE_SEED = 2017


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train; see `--help` for the meaning of each."""

    work_dir: Path
    epochs: int = 25
    batch_words: int = 256
    peak_rate: float = 2e-3
    warmup_steps: int = 400
    decay_fraction: float = 0.45
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    average_decay: float = 0.999
    seed: int = 1
    autocast: bool = True
    d_model: int = 192
    num_heads: int = 6
    d_ff: int = 768
    num_layers: int = 3
    dropout: float = 0.1
    max_length: int = 64


class Trainer:
    """The model, what it learns from, and how far it is."""

    def __init__(
        self,
        settings: Settings,
        tokenizer: Tokenizer,
        train: list[Entry],
        validation: list[Entry],
        console: Console,
    ) -> None:
        """Create a fresh model; `run` restores a stopped training."""
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.tokenizer = tokenizer
        self.console = console
        self.validation = validation
        self.train_examples = encode_entries(train, tokenizer)
        self.validation_examples = encode_entries(validation, tokenizer)
        self.model = Transformer(model_config(settings, tokenizer.get_vocab_size()))
        self.average = WeightAverage(self.model, settings.average_decay)
        self.averaged_model = Transformer(self.model.config).eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=_BETAS, weight_decay=settings.weight_decay, fused=True
        )
        self.steps_per_epoch = batch_count(len(self.train_examples), settings.batch_words)
        self.schedule = Trapezoid(
            settings.peak_rate,
            settings.warmup_steps,
            settings.epochs * self.steps_per_epoch,
            settings.decay_fraction,
        )
        self.state = State()
        self.stopping = False
        if settings.autocast:
            # Up to six projections read the output of one norm; autocast would cast it for each of them.
            for module in self.model.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.register_forward_hook(_to_bfloat16)

    def run(self) -> None:
        """Train to the last epoch, or until `stop`."""
        self.settings.work_dir.mkdir(parents=True, exist_ok=True)
        if self._state_path.exists():
            self.state = load_training(self._state_path, self.model, self.average, self.optimizer)
            self.console.print(f"resuming in epoch {self.state.epoch + 1} at batch {self.state.batch}")
        while self.state.epoch < self.settings.epochs and not self.stopping:
            if self._run_epoch():
                self._finish_epoch()
        save_training(self._state_path, self.model, self.average, self.optimizer, self.state)

    def stop(self, _signum: int = 0, _frame: FrameType | None = None) -> None:
        """Finish the batch, save, end; may be called from a signal handler."""
        self.stopping = True

    @property
    def _state_path(self) -> Path:
        return self.settings.work_dir / "training.safetensors"

    def _run_epoch(self) -> bool:
        # True if the epoch is complete, False if `stop` came first.
        state = self.state
        self.model.train()
        batches = epoch_batches(self.train_examples, self.settings.batch_words, self.settings.seed, state.epoch)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task(f"epoch {state.epoch + 1}", total=self.steps_per_epoch, completed=state.batch)
            for batch in islice(batches, state.batch, None):
                started = time.perf_counter()
                state.epoch_loss += self._learn(batch)
                state.step += 1
                state.batch += 1
                state.seconds += time.perf_counter() - started
                mean = state.epoch_loss / state.batch
                bar.update(task, advance=1, description=f"epoch {state.epoch + 1} loss {mean:.3f}")
                if self.stopping:
                    break
        return state.batch == self.steps_per_epoch

    def _learn(self, batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.state.step)
        loss = self._loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.average.update(self.model, self.state.step)
        return loss.item()

    def _loss(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.autocast):
            inputs, labels = batch.target_ids[:, :-1], batch.target_ids[:, 1:]
            logits = self.model(batch.source_ids, batch.source_lengths, inputs, batch.target_lengths)
        return functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=PAD_ID,
            label_smoothing=self.settings.label_smoothing,
        )

    def _finish_epoch(self) -> None:
        state, work_dir = self.state, self.settings.work_dir
        self.average.copy_to(self.averaged_model)
        answers = pronounce(self.averaged_model, self.tokenizer, self.validation_examples)
        rates = error_rates(self.validation, answers)
        record = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "loss": state.epoch_loss / state.batch,
            "rate": self.schedule.rate(state.step - 1),
            "seconds": round(state.seconds, 1),
            "validation": dataclasses.asdict(rates),
        }
        curve.append_record(work_dir / "log.jsonl", record)
        curve.plot(curve.read_records(work_dir / "log.jsonl"), work_dir / "curve.png")
        self.console.print(
            f"epoch {state.epoch + 1:3d}  loss {record['loss']:.4f}  validation WER {rates.wer:.2%}"
            f"  without stress {rates.wer_no_stress:.2%}  PER {rates.per:.2%}  {state.seconds:,.0f} s"
        )
        state.epoch, state.batch, state.epoch_loss = state.epoch + 1, 0, 0.0
        save_checkpoint(work_dir / "latest", self.averaged_model, self.tokenizer.to_str(pretty=True))
        if state.best_epoch == 0 or rates.wer_no_stress < state.best_wer:
            state.best_wer, state.best_epoch = rates.wer_no_stress, state.epoch
            save_checkpoint(work_dir / "best", self.averaged_model, self.tokenizer.to_str(pretty=True))
            write_sample_texts(work_dir / "best", self.validation)
        save_training(self._state_path, self.model, self.average, self.optimizer, state)


def _to_bfloat16(_module: torch.nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.bfloat16()


def write_sample_texts(folder: Path, entries: Sequence[Entry]) -> None:
    """Put words beside a checkpoint that the export decodes in PyTorch and in onnxruntime to compare them."""
    words = [entry.word for entry in entries]
    random.Random(_SAMPLE_SEED).shuffle(words)  # noqa: S311 - for repeating, not for secrets
    (folder / SAMPLE_FILE).write_text("".join(f"{word}\n" for word in words[:_SAMPLE_WORDS]), encoding="utf-8")


def model_config(settings: Settings, vocab_size: int) -> TransformerConfig:
    """The model that the settings describe."""
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=settings.d_model,
        num_heads=settings.num_heads,
        d_ff=settings.d_ff,
        num_encoder_layers=settings.num_layers,
        num_decoder_layers=settings.num_layers,
        dropout=settings.dropout,
        max_source_length=settings.max_length,
        max_target_length=settings.max_length,
        pad_id=PAD_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        norm_first=True,
    )
