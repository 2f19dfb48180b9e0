"""Translation at a yardstick: Multi30k, this library next to PyTorch's own Transformer.

    python benchmarks/multi30k.py FOLDER  # of train.de, train.en, val.*, test_2016_flickr.*
    python benchmarks/multi30k.py FOLDER --steps 200 --report-every 100

The files are those of Elliott et al. 2016 (Multi30K: Multilingual English-German Image
Descriptions), plain or gzip-compressed. Both models translate German into English and have equal
sizes, tokenizer, initial values, batches, dropout, learning rates, optimizer and label smoothing,
and equal numbers of steps; the peer is `torch.nn.Transformer`. Each trains in a process of its own,
one after the other, and keeps the weights with the lowest loss on the validation pairs. Reported:
BLEU of the translations of the test pairs of 2016 by sacrebleu, greedy and, for this library, with
5 beams; and the minutes of training with its evaluations. PyTorch is not among the packages of this
project; install it to compare.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

WIDTH, HEADS, INNER, LAYERS, VOCABULARY = 256, 4, 1024, 3, 8000
BATCH, WARMUP, PEAK, DROPOUT, SMOOTHING = 128, 400, 1e-3, 0.2, 0.1
WEIGHT_DECAY, BETAS, CLIP = 0.01, (0.9, 0.98), 1.0
LONGEST = 96
"""Tokens of the longest row; a longer translation is cut."""
CONTENDERS = {"tensorflow": "tensorflow", "torch": "torch"}
"""Contender -> Keras backend, which the peer needs for the tokenizer only."""


def corpus_of(folder: Path) -> Any:
    import functional_models as fm

    def files(part: str) -> list[str]:
        found = [sorted(folder.glob(f"{part}.{language}*")) for language in ("de", "en")]
        if not all(found):
            raise SystemExit(
                f"{folder} has no {part}.de and {part}.en; give the folder of Multi30k"
            )
        return [str(paths[0]) for paths in found]

    return fm.load_parallel_corpus(
        files("train"), validation=files("val"), test=files("test_2016_flickr"), progress=False
    )


def ours(corpus: Any, tokenizer: Any, options: argparse.Namespace) -> dict[str, Any]:
    """This library, as a user calls it."""
    import keras

    import builders
    import functional_models as fm
    from functional_models.memory import keep_freed_memory

    keep_freed_memory()
    policies = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
    keras.config.set_dtype_policy(policies[options.dtype])
    keras.utils.set_random_seed(options.seed)
    spec = builders.TransformerSpec(
        kind="encoder_decoder",
        vocabulary_size=VOCABULARY,
        source_vocabulary_size=VOCABULARY,
        num_layers=LAYERS,
        num_encoder_layers=LAYERS,
        hidden_dim=WIDTH,
        num_heads=HEADS,
        intermediate_dim=INNER,
        max_sequence_length=LONGEST,
        positions="sinusoidal",
        scale_embeddings=True,
        activation="relu",
        dropout=DROPOUT,
        attention_dropout=DROPOUT,
        activation_dropout=DROPOUT,
        embedding_dropout=DROPOUT,
        tie_embeddings=True,
        share_embeddings=True,
        initializer="glorot_packed",  # the initial values of the peer
    )
    translator = fm.Translator(spec.replace(pad_token_id=tokenizer.pad_id), tokenizer)
    recipe = fm.Recipe(
        steps=options.steps,
        batch_size=BATCH,
        learning_rate=PEAK,
        warmup_steps=WARMUP,
        weight_decay=WEIGHT_DECAY,
        beta_2=BETAS[1],
        clip_norm=CLIP,
        label_smoothing=SMOOTHING,
        report_every=options.report_every,
        seed=options.seed,
    )
    start = time.time()
    translator.fit(corpus, recipe=recipe, folder=options.to / "ours", progress=options.progress)
    minutes = (time.time() - start) / 60
    found = translator.evaluate(list(corpus.test), bleu=True, progress=False)
    beam = translator.evaluate(
        list(corpus.test), bleu=True, progress=False, sampler="beam", num_beams=5
    )
    return {
        "parameters": translator.model.count_params(),
        "minutes": minutes,
        "bleu": found["bleu"],
        "bleu with 5 beams": beam["bleu"],
        "loss": found["loss"],
    }


def peer(corpus: Any, tokenizer: Any, options: argparse.Namespace) -> dict[str, Any]:
    """`torch.nn.Transformer` with the same sizes, and the same batches."""
    import torch
    from torch import nn
    from torch.nn import functional

    from functional_models.batches import PairBatches
    from functional_models.bleu import translation_scores

    pad = tokenizer.pad_id
    torch.manual_seed(options.seed)

    def batches_of(pairs: Any, seed: int) -> PairBatches:
        ids = tokenizer.encode_pairs(list(pairs), tokenizer)
        return PairBatches(ids, pad_id=pad, batch_size=BATCH, max_length=LONGEST, seed=seed)

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH, padding_idx=pad)
            nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)
            angles = torch.arange(LONGEST)[:, None] * 10000 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
            positions = torch.stack((angles.sin(), angles.cos()), -1).flatten(1)
            self.register_buffer("positions", positions)
            self.dropout = nn.Dropout(DROPOUT)
            self.layers = nn.Transformer(
                WIDTH, HEADS, LAYERS, LAYERS, INNER, DROPOUT, batch_first=True, norm_first=True
            )

        def embed(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embedding(ids) * math.sqrt(WIDTH)
            return self.dropout(x + self.positions[: ids.shape[1]])

        def encode(self, source: torch.Tensor) -> torch.Tensor:
            return self.layers.encoder(self.embed(source), src_key_padding_mask=source == pad)

        def decode(
            self, target: torch.Tensor, memory: torch.Tensor, source: torch.Tensor
        ) -> torch.Tensor:
            length = target.shape[1]
            later = torch.ones(length, length, dtype=torch.bool).triu(1)
            x = self.layers.decoder(
                self.embed(target),
                memory,
                tgt_mask=later,
                tgt_is_causal=True,
                memory_key_padding_mask=source == pad,
            )
            return functional.linear(x, self.embedding.weight)

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return self.decode(target, self.encode(source), source)

    model = Peer()
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embedding" in n]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=PEAK,
        betas=BETAS,
        eps=1e-7,
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, options.steps))

    def loss_of(batch: Any, smoothing: float, reduction: str = "mean") -> torch.Tensor:
        inputs, labels, _ = batch
        source, target = (torch.from_numpy(inputs[name]).long() for name in ("source", "target"))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.dtype == "bfloat16"):
            logits = model(source, target)
        return functional.cross_entropy(
            logits.float().flatten(0, 1),
            torch.from_numpy(labels).long().flatten(),
            ignore_index=pad,
            label_smoothing=smoothing,
            reduction=reduction,
        )

    @torch.no_grad()
    def mean_loss(batches: PairBatches) -> float:
        model.eval()
        total, count = 0.0, 0
        for batch in batches.eval_batches():
            total += float(loss_of(batch, 0.0, "sum"))
            count += int((batch[1] != pad).sum())
        model.train()
        return total / count

    @torch.no_grad()
    def translate(sources: list[str]) -> list[str]:
        model.eval()
        found: list[str] = []
        for first in range(0, len(sources), BATCH):
            rows = tokenizer.encode_sources(sources[first : first + BATCH])
            width = max(map(len, rows))
            source = torch.tensor([[*map(int, row)] + [pad] * (width - len(row)) for row in rows])
            memory = model.encode(source)
            target = torch.full((len(rows), 1), tokenizer.start_id)
            ended = torch.zeros(len(rows), dtype=torch.bool)
            while not ended.all() and target.shape[1] < LONGEST:
                chosen = model.decode(target, memory, source)[:, -1].argmax(-1)
                target = torch.cat((target, chosen[:, None]), 1)
                ended |= chosen == tokenizer.end_id
            for row in target[:, 1:].tolist():
                end = row.index(tokenizer.end_id) if tokenizer.end_id in row else len(row)
                found += tokenizer.decode([np.array(row[:end])])
        return found

    train = batches_of(corpus.train, options.seed)
    validation = batches_of(corpus.validation, 0)
    best, weights = math.inf, None
    start = time.time()
    for step in range(options.steps):
        loss = loss_of(train.batch(step), SMOOTHING)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        rate.step()
        if (step + 1) % options.report_every == 0 or step + 1 == options.steps:
            measured = mean_loss(validation)
            if options.progress:
                print(f"step {step + 1}: validation loss {measured:.4f}", flush=True)
            if measured < best:
                best, weights = measured, copy.deepcopy(model.state_dict())
    minutes = (time.time() - start) / 60
    model.load_state_dict(weights)
    sources, references = ([pair[side] for pair in corpus.test] for side in (0, 1))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": minutes,
        "bleu": translation_scores(translate(sources), references).bleu,
        "loss": mean_loss(batches_of(corpus.test, 0)),
    }


def factor(step: int, steps: int) -> float:
    """Return the learning rate over its peak: linear warm-up, then cosine to a tenth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    done = min((step - WARMUP) / max(1, steps - WARMUP), 1.0)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


def results(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run each contender in its own process, and yield what it reports."""
    for contender in options.contenders:
        environment = {
            **os.environ,
            "KERAS_BACKEND": CONTENDERS[contender],
            "OMP_NUM_THREADS": str(os.cpu_count()),
        }
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", contender]
        subprocess.run(command, env=environment, check=True)
        yield contender, json.loads((options.to / f"{contender}.json").read_text("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, default=Path("out/multi30k"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--report-every", type=int, default=500)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)

    if options.worker:
        import functional_models as fm

        corpus = corpus_of(options.folder)
        texts = [text for pair in corpus.train for text in pair]
        tokenizer = fm.train_tokenizer("byte_pair", texts, VOCABULARY, progress=False)
        run = ours if options.worker == "tensorflow" else peer
        found = run(corpus, tokenizer, options)
        path = options.to / f"{options.worker}.json"
        path.write_text(json.dumps(found), encoding="utf-8")
        return
    for contender, found in results(options):
        figures = ", ".join(
            f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value:,}"
            for name, value in found.items()
        )
        print(f"{contender}: {options.steps} steps in {options.dtype}: {figures}", flush=True)


if __name__ == "__main__":
    main()
