"""One token more in each row of a batch, fp32 on a CPU, by a pass written for it (``token_pass.c``) instead of modules.

A token of a few rows is several hundred small operations; torch wakes its threads for each of them, which takes longer
than reading the weights. Serves decoders made as Llama's are; whether one is, it is asked by comparing logits. None is
where there was no compiler when this package was installed.
"""

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.activations import SiLUActivation

from worker.hf.folded import FoldedLinear
from worker.hf.prompt_memory import slides
from worker.sdft.loss import Head

MAX_DIFFERENCE = 1e-3
"""Of what is computed in another order, as a share."""
_NUMBER = re.compile(r"(?<=^layers\.)\d+\.")
_PARTS = {
    "embed_tokens.weight", "norm.weight", "layers.input_layernorm.weight", "layers.post_attention_layernorm.weight",
    "layers.self_attn.q_norm.weight", "layers.self_attn.k_norm.weight",
    *(f"layers.self_attn.{part}_proj.{kind}" for part in "qkvo" for kind in ("weight", "bias")),
    *(f"layers.mlp.{part}_proj.{kind}" for part in ("gate", "up", "down") for kind in ("weight", "bias")),
}  # fmt: skip
_SEEN, _MASK, _NEXT = [[5, 4, 3, 2], [1, 9, 2, 6]], [[1, 1, 1, 1], [1, 0, 1, 1]], [3, 7]


class _Linear(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("norm_before_attention", "norm_before_mlp")),
        *((name, _Linear) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm", "keys", "values")),
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_layers", "hidden", "inner", "query_heads", "key_heads")),
        *((name, ctypes.c_int64) for name in ("head_size", "room", "vocabulary")),
        *((name, ctypes.c_float) for name in ("epsilon", "attention_scale")),
        ("layers", ctypes.POINTER(_Layer)),
        ("last_norm", ctypes.c_void_p),
        ("head", _Linear),
    )


class _Batch(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("slots", "lengths", "cosines", "sines", "stream", "logits")),
    )


@cache
def _library() -> ctypes.CDLL | None:
    """None where it was not compiled, is of other sources or has nothing for this processor."""
    found = find_spec("worker.hf._token_pass")
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
        library.token_pass_sizes.restype = library.token_pass_width.restype = ctypes.c_int64
        library.token_pass_compiler.restype = ctypes.c_char_p
        library.token_pass_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        sizes = (ctypes.sizeof(_Layer) << 40) + (ctypes.sizeof(_Decoder) << 20) + ctypes.sizeof(_Batch)
        fits = library.token_pass_sizes() == sizes and library.token_pass_width()
    except (OSError, AttributeError):  # of another C library, of older sources
        return None
    return library if fits else None


def compiled_pass() -> str | None:
    """By what the pass was compiled, and how many floats it takes at once here; None where there is none."""
    library: Any = _library()
    return library and f"{library.token_pass_compiler().decode()}, {library.token_pass_width()} floats at once"


@torch.no_grad()
def takes_token_pass(decoder: Any, head: Head) -> bool:
    """Compare logits after a token in each of two rows, one with a gap, with what the decoder itself makes of it.

    What has parts besides Llama's is not asked: they may do nothing yet, and learn. Nor is what treats later positions
    in another way.
    """
    parts = {_NUMBER.sub("", name.replace(".base_layer", "")) for name, _ in decoder.named_parameters()}
    known = all(name in _PARTS or ".lora_" in name for name in parts) and not _scales_later(decoder.config.to_dict())
    if _library() is None or head.weight_VH.device.type != "cpu" or not known or slides(decoder):
        return False
    mask_BL, next_B = torch.tensor(_MASK), torch.tensor(_NEXT)
    positions_BL = mask_BL.cumsum(-1) - 1
    cache = DynamicCache(config=decoder.config)
    try:
        decoder(
            input_ids=torch.tensor(_SEEN),
            attention_mask=mask_BL,
            position_ids=positions_BL,
            past_key_values=cache,
            use_cache=True,
        )
        found_BV = TokenPass(decoder, head, [cache], [mask_BL], torch.arange(2), room=1).read(next_B)
        hidden_B1H = decoder(
            input_ids=next_B[:, None],
            attention_mask=pad(mask_BL, (0, 1), value=1),
            position_ids=positions_BL[:, -1:] + 1,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):  # not made so
        return False
    expected_BV = head.logits(hidden_B1H[:, 0])
    return bool((found_BV - expected_BV).norm() < MAX_DIFFERENCE * expected_BV.norm())


def _scales_later(config: Any) -> bool:
    """Whether queries are scaled from some position on."""
    return isinstance(config, dict) and ("llama_4_scaling_beta" in config or any(map(_scales_later, config.values())))


class TokenPass:
    """Rows that have read their prompts, and read on a token at a time.

    Args:
        decoder: One that ``takes_token_pass``, with an arm's weights; they may not change meanwhile.
        head: From its hidden states to logits.
        caches: What it has made of the prompts: of each in a row of its own, or of several in one row as a tree.
        masks: Of each cache, [B, L]: which of its tokens lead to a prompt's end, wherever they lie.
        slots_B: Where each row is in all of these.
        room: Tokens that may come in each row.
    """

    def __init__(
        self, decoder: Any, head: Head, caches: Sequence[DynamicCache], masks: Sequence[Tensor], slots_B: Tensor, *,
        room: int,
    ) -> None:  # fmt: skip
        self._embed, self._rope, self._head = decoder.embed_tokens, decoder.rotary_emb, head
        self._slots_B = slots_B
        self._lengths_B = torch.cat([mask_BL.sum(-1) for mask_BL in masks])[slots_B]
        room += int(self._lengths_B.max())
        # What does not lead there goes behind all that does, and is written over.
        orders = [mask_BL.int().argsort(dim=-1, descending=True, stable=True)[:, :room] for mask_BL in masks]
        layers: list[Any] = list(zip(*(cache.layers for cache in caches), strict=True))
        self._keys = [_with_room([part.keys for part in layer], orders, room) for layer in layers]
        self._values = [_with_room([part.values for part in layer], orders, room) for layer in layers]
        self._decoder = _describe(decoder, head, self._keys, self._values)

    def read(self, ids_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token in each row.

        Raises:
            IndexError: There was room for fewer.
            MemoryError: There is none for what lies between two layers.
        """
        if self._lengths_B.max() >= self._decoder.room:
            raise IndexError("no room for another token")
        rows, hidden, head_size = len(ids_B), self._decoder.hidden, self._decoder.head_size
        stream_BH = self._embed(ids_B).contiguous()
        cosines_BD, sines_BD = (part[0].contiguous() for part in self._rope(stream_BH[None], self._lengths_B[None]))
        logits_BV = stream_BH.new_empty(rows, self._decoder.vocabulary)
        batch = _Batch(
            rows,
            self._slots_B.data_ptr(),
            self._lengths_B.data_ptr(),
            _address(cosines_BD, rows, head_size),
            _address(sines_BD, rows, head_size),
            _address(stream_BH, rows, hidden),
            _address(logits_BV, rows, self._decoder.vocabulary),
        )
        lib: Any = _library()
        described = ctypes.byref(self._decoder), ctypes.byref(batch)
        if lib.token_pass_run(*described, torch.get_num_threads(), lib.token_pass_width()):
            raise MemoryError(f"no memory for a token of {rows} rows")
        self._lengths_B = self._lengths_B + 1
        return self._head.finish(logits_BV)

    def keep(self, rows_B: Tensor) -> None:
        """Go on with some of the rows."""
        self._slots_B, self._lengths_B = self._slots_B[rows_B], self._lengths_B[rows_B]


def _with_room(seen: Sequence[Tensor], orders: Sequence[Tensor], room: int) -> Tensor:
    """A layer's keys or values of all rows, one after the other in order, [slots, heads, room, size]."""
    num_heads, _, size = seen[0].shape[1:]
    nums = [len(order_BL) for order_BL in orders]
    roomy = seen[0].new_empty(sum(nums), num_heads, room, size)
    for slots, part_BKLD, order_BL in zip(roomy.split(nums), seen, orders, strict=True):
        num_rows, length = order_BL.shape
        order = order_BL[:, None, :, None].expand(-1, num_heads, -1, size)
        slots[:, :, :length] = part_BKLD.expand(num_rows, -1, -1, -1).gather(2, order)
    return roomy


def _describe(decoder: Any, head: Head, keys: list[Tensor], values: list[Tensor]) -> _Decoder:
    """Where everything lies.

    Raises:
        AttributeError: The decoder has other parts than Llama's.
        TypeError: They are of other kinds.
        ValueError: They are of other sizes.
    """
    first = decoder.layers[0]
    _, key_heads, room, head_size = keys[0].shape
    hidden, inner = decoder.config.hidden_size, len(_parts(first.mlp.gate_proj)[0])
    wide, narrow = len(_parts(first.self_attn.q_proj)[0]), key_heads * head_size
    if head_size % 2 or wide % narrow:
        raise ValueError("heads of another size")
    layers = []
    for layer, layer_keys, layer_values in zip(decoder.layers, keys, values, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        if not isinstance(mlp.act_fn, nn.SiLU | SiLUActivation):
            raise TypeError("another activation")
        norms = (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None))
        layers.append(
            _Layer(
                _address(layer.input_layernorm.weight, hidden),
                _address(layer.post_attention_layernorm.weight, hidden),
                _linear(attention.q_proj, wide, hidden),
                _linear(attention.k_proj, narrow, hidden),
                _linear(attention.v_proj, narrow, hidden),
                _linear(attention.o_proj, hidden, wide),
                _linear(mlp.gate_proj, inner, hidden),
                _linear(mlp.up_proj, inner, hidden),
                _linear(mlp.down_proj, hidden, inner),
                *(None if norm is None else _address(norm.weight, head_size) for norm in norms),
                *(_address(seen, *keys[0].shape) for seen in (layer_keys, layer_values)),
            )
        )
    return _Decoder(
        len(layers),
        hidden,
        inner,
        wide // head_size,
        key_heads,
        head_size,
        room,
        len(head.weight_VH),
        decoder.norm.variance_epsilon,
        first.self_attn.scaling,
        (_Layer * len(layers))(*layers),
        _address(decoder.norm.weight, hidden),
        _in_one_piece(head.weight_VH, head.bias_V, len(head.weight_VH), hidden),
    )


def _linear(module: Any, outputs: int, inputs: int) -> _Linear:
    return _in_one_piece(*_parts(module), outputs, inputs)


def _in_one_piece(weight_OI: Tensor, bias_O: Tensor | None, outputs: int, inputs: int) -> _Linear:
    return _Linear(_address(weight_OI, outputs, inputs), None if bias_O is None else _address(bias_O, outputs))


def _parts(module: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer as it is now.

    Raises:
        TypeError: It is more than these.
    """
    if isinstance(module, LoraLayer) and module.disable_adapters:
        module = module.get_base_layer()
    if isinstance(module, FoldedLinear):
        return module.folded_OI, module.bias_O
    if not isinstance(module, nn.Linear):
        raise TypeError(f"a {type(module).__name__} is more than a weight and a bias")
    return module.weight, module.bias


def _address(tensor: Tensor, *shape: int) -> int:
    if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise ValueError(f"{tuple(tensor.shape)} of {tensor.dtype}, not {shape} of fp32 in one piece")
    return tensor.data_ptr()
