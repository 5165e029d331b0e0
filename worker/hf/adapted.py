"""A transformers causal LM with adapters by PEFT: the weights of each arm over one frozen base.

The student's adapter is trained; a job that continues an adapter keeps that one too, frozen, as the parent's; a teacher
that moves has a third, a supervised twin a fourth.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from worker.hf.folded import FoldedCopy, adapts_plain_layers
from worker.hf.weight_norms import weight_norms
from worker.sdft.loss import Head
from worker.sdft.policy import Arm
from worker.sdft.teacher import freeze

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


class AdaptedModel:
    """One base and its adapters.

    Args:
        model: Of transformers; PEFT changes it in place.
        lora: The student's.
        parent: Of the arm beside it, if there is one.

    Attributes:
        lora_rank: The student's; a parent's rank and alpha go on, whatever was asked for.
        lora_alpha: Likewise.
        parent_alpha: Of the arm beside it; of a job's starting point the same.

    Raises:
        ValueError: The base does more to its logits than ``Head`` can.
    """

    def __init__(self, model: Any, lora: LoraConfig, parent: LoraConfig | None) -> None:
        self.head = _head(model)
        self.device = self.head.weight_VH.device
        self.vocab_size = len(self.head.weight_VH)
        self.lora_rank, self.lora_alpha = lora.r, lora.lora_alpha
        self.parent_alpha = (parent or lora).lora_alpha
        folded = FoldedCopy(model) if self.device.type == "cpu" else None
        with warnings.catch_warnings():
            # What PEFT 0.21 asks transformers 5 for has been renamed there.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self._peft: Any = get_peft_model(model, lora, adapter_name="student")
            if parent is not None:
                self._peft.add_adapter("parent", parent)
        self._peft.set_adapter("student")
        self._peft.eval()  # no dropout anywhere: the student that is trained is the one that was sampled
        self._plain = adapts_plain_layers(self._peft)
        self._folded = folded if self._plain else None
        self._backbone: Any = model.get_decoder()

    def parameters(self) -> dict[str, nn.Parameter]:
        """The student's factors, fp32, by their names in the adapter file."""
        return self._adapter_parameters("student")

    def parent_parameters(self) -> dict[str, nn.Parameter]:
        """The factors that the job starts from, frozen; empty where it starts from the base."""
        return self._adapter_parameters("parent")

    def add_teacher(self) -> None:
        """An adapter for a teacher that moves, at first the student's."""
        self._add("teacher", self.parameters())

    def teacher_parameters(self) -> dict[str, nn.Parameter]:
        """The factors, fp32, of a teacher that moves; empty where it does not."""
        return self._adapter_parameters("teacher")

    def add_twin(self, factors: Mapping[str, Tensor]) -> None:
        """An adapter of the student's shape to be asked beside it: the arm ``twin``."""
        self._add("twin", factors)

    def twin_parameters(self) -> dict[str, nn.Parameter]:
        """Its factors; empty before."""
        return self._adapter_parameters("twin")

    def load_student(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over an adapter's factors.

        Raises:
            ValueError: They are not of this base and rank.
        """
        copy_factors(tensors, self.parameters())

    def save_adapter(self, folder: Path, *, base_name: str, base_revision: str) -> None:
        """Write the student as stock PEFT reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self._peft.peft_config["student"].to_dict() | {
            "base_model_name_or_path": base_name,
            "revision": base_revision,
            "inference_mode": True,
            "target_modules": sorted(self._peft.peft_config["student"].target_modules),
        }
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        tensors = {name: parameter.detach().contiguous() for name, parameter in self.parameters().items()}
        save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})

    def weight_norms(self, *, arm: Arm) -> dict[str, tuple[float, float]]:
        """Frobenius norms of what an arm adds to the base's weights, and of these, by kind of module."""
        adapter = self._adapter(arm)
        return {} if adapter is None else weight_norms(self._peft, adapter)

    @contextmanager
    def _weights(self, arm: Arm, *, folded: bool) -> Iterator[Any]:
        """The backbone with an arm's weights, for a while; PEFT's layers hold the student's at all other times.

        Folding in takes as long as a token or two, which an arm that is asked about a few tokens a step does not earn.
        """
        adapter = self._adapter(arm)
        if adapter is None:
            with self._peft.disable_adapter():
                yield self._backbone
        elif self._folded and folded:
            yield self._folded.backbone(self._peft.get_base_model(), adapter)
        elif adapter == "student":
            yield self._backbone
        else:
            self._peft.set_adapter(adapter, inference_mode=True)
            try:
                yield self._backbone
            finally:
                self._peft.set_adapter("student")

    def _add(self, adapter: str, factors: Mapping[str, Tensor]) -> None:
        with torch.random.fork_rng():
            self._peft.add_adapter(adapter, self._peft.peft_config["student"])
        self._peft.eval()
        freeze(factors, self._adapter_parameters(adapter))

    def _adapter(self, arm: Arm) -> str | None:
        if arm == "base" or (arm == "parent" and "parent" not in self._peft.peft_config):
            return None
        return arm

    def _adapter_parameters(self, adapter: str) -> dict[str, nn.Parameter]:
        infix = f".{adapter}."
        return {
            name.replace(infix, "."): parameter for name, parameter in self._peft.named_parameters() if infix in name
        }


def new_lora(rank: int, alpha: int) -> LoraConfig:
    """An adapter on all linear layers, without dropout."""
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def lora_of(folder: Path) -> LoraConfig:
    """Of a PEFT folder."""
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    return new_lora(config["r"], config["lora_alpha"])


@torch.no_grad()
def copy_factors(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Give parameters the values of an adapter file.

    Raises:
        ValueError: They are not of this base and rank.
    """
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise ValueError("the adapter does not fit this base: its layers or its rank are others")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


@torch.no_grad()
def _head(model: Any) -> Head:
    """The map from hidden states to logits, checked against the model's own logits.

    Raises:
        ValueError: The architecture does something to its logits that ``Head`` does not know.
    """
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    head = Head(
        output.weight,
        bias_V=output.bias,
        scale=getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
    ids_1L = torch.arange(4, device=output.weight.device)[None]
    logits_1LV = model(input_ids=ids_1L, use_cache=False).logits.float()
    hidden_1LH = model.get_decoder()(input_ids=ids_1L, use_cache=False).last_hidden_state
    if not torch.allclose(head.logits(hidden_1LH), logits_1LV, rtol=1e-2, atol=1e-2):
        raise ValueError(f"the architecture {config.model_type} changes its logits in a way that is not supported")
    return head
