"""Fine-tuning an encoder as a fact checker: one logit a claim, positive for SUPPORTS."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.models.bert.modeling_bert import BertPooler

from malmen.data.rows import Label
from malmen.lm.kinds import TARGETS
from malmen.lm.weights.settings import FactCheckerSettings
from malmen.support.errors import InputError, quoted
from malmen.support.files import atomic_folder, write_json
from malmen.support.progress import Progress

__all__ = ["train_fact_checker"]

LINEAR = 2.0**-14
"""Scale at which tanh is the identity in single precision: tanh(x) = x - x³/3 + …"""


def train_fact_checker(
    base: Path,
    claims: Sequence[tuple[str, Label]],
    held_out: Sequence[tuple[str, Label]],
    *,
    out: Path,
    settings: FactCheckerSettings,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Fine-tune an encoder on claims and write it to ``out`` with its accuracy.

    The head is linear on the state of [CLS], as in the released code. transformers' own class has a
    pooler with tanh between the two, which is written so that it passes the state on.

    Args:
        base: folder of a pre-trained encoder.
        claims: (claim, label) to train on.
        held_out: (claim, label) about other subjects.
        out: model folder; ``accuracy.json`` stands beside the weights. It appears complete or
            not at all.
        settings: hyper-parameters.
        seed: of initialisation and order.
        device: the processor, or a GPU: transformers takes all there are.

    Returns:
        Accuracy on (a sample of) the training claims and on the held-out ones.

    Raises:
        InputError: ``base`` holds no encoder, or one without BERT's pooler; or a claim is too long
            for it.
    """
    if not (base / "config.json").exists():
        raise InputError(f"{base}: no encoder there (config.json is missing)")
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    if not isinstance(getattr(model.base_model, "pooler", None), BertPooler):
        raise InputError(f"{base}: a {type(model).__name__}, whose head is not BERT's")
    model.base_model.pooler = _FirstState()

    most = min(model.config.max_position_embeddings, tokenizer.model_max_length)

    def dataset(rows: Sequence[tuple[str, Label]]) -> Dataset:
        encoded = tokenizer([claim for claim, _ in rows])
        for (claim, _), ids in zip(rows, encoded["input_ids"], strict=True):
            if len(ids) > most:
                raise InputError(
                    f"the claim {quoted(claim)} has {len(ids)} tokens, and {base} reads at most "
                    f"{most}: leave it out"
                )
        labels = [float(TARGETS[label]) for _, label in rows]
        return Dataset.from_dict({**encoded, "labels": labels})

    training, test = dataset(claims), dataset(held_out)
    steps = settings.epochs * math.ceil(len(claims) / settings.batch_size)
    stage = f"fact checker on {len(claims):,} claims"
    with atomic_folder(out) as made, Progress(stage, total=steps, unit="steps") as bar:
        trainer = _BinaryTrainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(made),
                learning_rate=settings.learning_rate,
                num_train_epochs=settings.epochs,
                per_device_train_batch_size=settings.batch_size,
                per_device_eval_batch_size=settings.batch_size,
                warmup_steps=settings.warmup,
                train_sampling_strategy="group_by_length",
                logging_steps=20,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=device.type == "cpu",
                dataloader_pin_memory=False,  # it warns where there is no GPU
                seed=seed,
            ),
            train_dataset=training,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=_accuracy,
            callbacks=[_Report(bar)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        _use_standard_pooler(model)
        accuracy = {
            name: trainer.evaluate(rows)["eval_accuracy"]
            for name, rows in (("training", dataset(claims[: len(held_out)])), ("held_out", test))
        }
        trainer.save_model()
        write_json(made / "accuracy.json", accuracy)
    return accuracy


class _FirstState(nn.Module):
    """In place of the pooler: the state of [CLS] as it is."""

    def forward(self, states: Tensor) -> Tensor:
        """Return (b, h) of states (b, t, h)."""
        return states[:, 0]


@torch.no_grad()
def _use_standard_pooler(model: PreTrainedModel) -> None:
    """Give the model its class's pooler again, so small that tanh changes nothing of the state."""
    pooler = BertPooler(model.config).to(model.device, model.dtype)
    pooler.dense.weight.copy_(LINEAR * torch.eye(model.config.hidden_size))
    pooler.dense.bias.zero_()
    model.base_model.pooler = pooler
    model.get_submodule("classifier").get_parameter("weight").div_(LINEAR)


class _BinaryTrainer(Trainer):
    """Trainer with binary cross-entropy: transformers takes a single logit for a regression."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits[:, 0], labels)
        return (loss, {"loss": loss, **outputs}) if return_outputs else loss


class _Report(TrainerCallback):
    """Shows the training's progress as that of every other stage is shown."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Count a step."""
        self.bar.update()

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Show the loss."""
        if "loss" in kwargs["logs"]:
            self.bar.update(0, loss=float(kwargs["logs"]["loss"]))


def _accuracy(predictions: EvalPrediction) -> dict[str, float]:
    labels = np.asarray(predictions.label_ids) > 0.5
    right = (np.asarray(predictions.predictions)[:, 0] > 0) == labels
    return {"accuracy": float(right.mean())}
