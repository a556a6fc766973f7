"""Every path of a training step against the CPU: loss and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gato.batch import Kind, TokenBatch, TokenSequence, collate, join
from gato.config import GatoConfig
from gato.layers.embedding import PatchEmbedder
from gato.layers.head import CHUNK, weighted_loss
from gato.learners.gato import GatoLearner
from gato.model import Gato

from .checks import PRECISIONS, apart, autocast, exactly, put
from .training import Load, make_batch
from .worker import Options, Report

Found = tuple[Tensor, list[Tensor]]  # loss, and the gradient of every parameter


def config_of(options: Options, positions: str) -> GatoConfig:
    vocabulary, width, context = (1500, 32, 64) if options.toy else (5000, 256, 512)
    return GatoConfig(
        vocab_size=vocabulary, continuous_start=vocabulary - 1027, image_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 2, num_layers=2 if options.toy else 4, width=width,
        num_heads=width // (16 if options.toy else 64), head_width=16 if options.toy else 64,
        feed_forward=4 * width, context_length=context, positions=positions, drop_path=0.2,
        initializer_range=0.1,  # so that attention is far from uniform, and positions matter
    )  # fmt: skip


def batch_of(config: GatoConfig, is_packed: bool) -> TokenBatch:
    """Four rows with patches and stochastic depth; packed ones hold three documents and padding."""
    context = config.context_length
    load = Load("cpu", 4, context, config.vocab_size)
    if not is_packed:
        return make_batch(config, load)
    singles = []
    for length in (context // 2, context // 4, context // 8):
        drawn = make_batch(config, replace(load, context=length))
        singles.append([_sequence(drawn, row) for row in range(len(drawn))])
    rows = [join(list(parts), same_document=False) for parts in zip(*singles, strict=True)]
    noise = np.random.default_rng(1).random((len(rows), 2 * config.num_layers))
    return collate(rows, context, config.pad_token_id or 0, depth_noise=noise)


def _sequence(batch: TokenBatch, row: int) -> TokenSequence:
    """The row as it was before `collate`."""
    slots = (batch.kind == int(Kind.PATCH)).sum(1)
    part = slice(int(slots[:row].sum()), int(slots[: row + 1].sum()))
    length = batch.ids.shape[1]
    return TokenSequence(
        ids=batch.ids[row].numpy().astype(np.int32), kind=batch.kind[row].numpy().astype(np.uint8),
        local_position=batch.local_position[row].numpy().astype(np.int32),
        timestep=np.zeros(length, np.int32), document=np.zeros(length, np.int16),
        is_target=(batch.labels[row] >= 0).numpy(), patches=batch.patches[part].numpy(),
        patch_boxes=batch.patch_boxes[part].numpy().astype(np.uint8),
    )  # fmt: skip


def learner_of(config: GatoConfig, seed: int = 0) -> GatoLearner:
    torch.manual_seed(seed)
    return GatoLearner(Gato(config)).train()


def step_of(learner: GatoLearner, batch: TokenBatch, device: str, precision: str) -> Found:
    learner.zero_grad(set_to_none=True)
    with autocast(device, precision):
        loss, _ = learner(batch)
    loss.backward()
    gradients = ((p, p.grad) for p in learner.parameters())
    return loss.detach(), [torch.zeros_like(p) if g is None else g for p, g in gradients]


def as_it_is(batch: TokenBatch, device: str) -> TokenBatch:
    """On the device without the entries that fill up buckets."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{n: v.to(device) for n, v in values.items() if hasattr(v, "to")})


def bucketed(batch: TokenBatch, device: str) -> TokenBatch:
    """As training hands batches over; on a CPU, where it fills nothing up, it is made to."""
    return as_it_is(batch, device).bucketed()


Place = Callable[[TokenBatch, str], TokenBatch]
# The rows' documents, positions, how the batch comes to the device, how layers are computed.
PATHS: dict[str, tuple[bool, str, Place, str]] = {
    "one document a row": (False, "rope", as_it_is, ""),
    "bucketed batch": (False, "rope", bucketed, ""),
    "packed rows (FlexAttention on a GPU, dense masks on the CPU)": (True, "rope", bucketed, ""),
    "packed rows, learned positions": (True, "learned", bucketed, ""),
    "transformer_xl": (False, "transformer_xl", bucketed, ""),
    "transformer_xl, packed rows": (True, "transformer_xl", bucketed, ""),
    "layers computed again": (False, "rope", bucketed, "recomputed"),
    "compiled layers": (False, "rope", bucketed, "compiled"),
    "compiled layers, packed rows": (True, "rope", bucketed, "compiled"),
    "compiled layers, transformer_xl": (False, "transformer_xl", bucketed, "compiled"),
    "compiled layers, computed again": (False, "rope", bucketed, "compiled recomputed"),
}


COMPILED = tuple(what for what, path in PATHS.items() if "compiled" in path[3])


def check(options: Options, report: Report, which: list[str]) -> None:
    """One that fails does not end the others."""
    failed = []
    for what in which or [name for name in PATHS if name not in COMPILED]:
        try:
            with exactly():
                _check_path(options, report, what, *PATHS[what])
        except Exception as error:  # the next path may hold; the process ends as failed
            report(what, failed=f"{type(error).__name__}: {error}"[:300])
            failed.append(error)
    if failed:
        raise failed[0]


def _check_path(options: Options, report: Report, what: str, *path: Any) -> None:
    packed, positions, place, how = path
    config = config_of(options, positions)
    batch = batch_of(config, packed)
    against_cpu(options, report, what, learner_of(config), batch, place(batch, options.device), how)


def against_cpu(
    options: Options,
    report: Report,
    what: str,
    learner: GatoLearner,
    batch: TokenBatch,
    moved: TokenBatch,
    how: str = "",
) -> None:
    """Loss and gradients of `learner`, which goes to the device, for `moved`, which lies there.

    **Arguments:** `how`: holds `compiled` and `recomputed` where layers are to be.
    """
    truth = step_of(copy.deepcopy(learner).double(), batch, "cpu", "float64")
    with_cpu = {p: step_of(copy.deepcopy(learner), batch, "cpu", p) for p in PRECISIONS}
    mine = learner.to(options.device)
    if "recomputed" in how:
        mine.model.recompute_layers()
    if "compiled" in how:
        torch._dynamo.reset()  # a layer's code is compiled for so many kinds of calls, then no more
        # kernels for a CPU take a minute; there the graph alone is made
        backend = "inductor" if options.device == "cuda" else "aot_eager"
        mine.model.transformer.compile_layers(backend=backend)
    for precision in PRECISIONS:
        loss, gradients = step_of(mine, moved, options.device, precision)
        of_cpu = with_cpu[precision]
        loss_errors = [apart([x], [truth[0]]) for x in (loss, of_cpu[0])]
        put(report, f"{what}: loss", precision, *loss_errors)
        errors = [apart(x, truth[1]) for x in (gradients, of_cpu[1])]
        put(report, f"{what}: gradients", precision, *errors)


def parts(options: Options, report: Report) -> None:
    """The chunked head over several chunks of a GPU, and the patch embedder, alone."""
    torch.manual_seed(0)
    count, width, vocabulary = (CHUNK + 100) if not options.toy else 600, 64, 1000
    hidden, table = torch.randn(count, width), torch.randn(1024, width)
    targets, scale = torch.randint(vocabulary, (count,)), torch.rand(count) / count
    patches = torch.randint(256, (50, 16, 16, 3), dtype=torch.uint8)
    embedder = PatchEmbedder(width)

    def head(device: str, dtype: torch.dtype, precision: str) -> list[Tensor]:
        h, t = (x.clone().to(device, dtype).requires_grad_() for x in (hidden, table))
        with autocast(device, precision):
            loss, _ = weighted_loss(h, t, targets.to(device), scale.to(device), vocabulary)
        loss.backward()
        assert h.grad is not None and t.grad is not None
        return [loss, h.grad, t.grad]

    def embedded(device: str, dtype: torch.dtype, precision: str) -> list[Tensor]:
        module = copy.deepcopy(embedder).to(device, dtype)
        with autocast(device, precision):
            out = module(patches.to(device))
        out.float().square().mean().backward()
        return [out, *(p.grad for p in module.parameters() if p.grad is not None)]

    for what, compute in (("chunked head", head), ("patch embedder", embedded)):
        with exactly():
            truth = compute("cpu", torch.float64, "float64")
            for precision in PRECISIONS:
                pair = [compute(d, torch.float32, precision) for d in (options.device, "cpu")]
                for name, part in (("value", slice(1)), ("gradients", slice(1, None))):
                    errors = [apart(found[part], truth[part]) for found in pair]
                    put(report, f"{what}: {name}", precision, *errors)
