#!/usr/bin/env python3
"""A plain fp16 decode loop of Llama 3 8B's shape in PyTorch, a step in one CUDA graph: what packed serving is compared
with. Random weights, static key/value caches, fused q/k/v and gate/up, greedy. Prints tokens a second by batch.
  llama3_8b_fp16.py [CONTEXT] [BATCH…]        (default: 1024 1 8 16)
"""
import sys

import torch
import torch.nn.functional as F

HIDDEN, INNER, BLOCKS, HEADS, KV, DIM, VOCAB = 4096, 14336, 32, 32, 8, 128, 128256
context = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
batches = [int(b) for b in sys.argv[2:]] or [1, 8, 16]
half = dict(device="cuda", dtype=torch.float16)


def random(*shape):
    return torch.randn(*shape, **half) * 0.02


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


norm = torch.ones(HIDDEN, **half)
embed, head = random(VOCAB, HIDDEN), random(VOCAB, HIDDEN)
blocks = [(random((HEADS + 2 * KV) * DIM, HIDDEN), random(HIDDEN, HEADS * DIM), random(2 * INNER, HIDDEN),
           random(HIDDEN, INNER)) for _ in range(BLOCKS)]
cos, sin = torch.randn(DIM // 2, **half), torch.randn(DIM // 2, **half)


@torch.no_grad()
def measure(batch):
    cache = [(random(batch, KV, context, DIM), random(batch, KV, context, DIM)) for _ in range(BLOCKS)]
    tokens = torch.zeros(batch, dtype=torch.long, device="cuda")
    last = torch.full((1,), context - 1, dtype=torch.long, device="cuda")

    def step():
        h = embed[tokens]
        for (qkv, o, gate_up, down), (keys, values) in zip(blocks, cache):
            x = F.linear(F.rms_norm(h, (HIDDEN,), norm), qkv).view(batch, HEADS + 2 * KV, 1, DIM)
            q, k, v = x.split((HEADS, KV, KV), 1)
            keys.index_copy_(2, last, rope(k, cos, sin))
            values.index_copy_(2, last, v)
            y = F.scaled_dot_product_attention(rope(q, cos, sin), keys, values, enable_gqa=True)
            h = h + F.linear(y.reshape(batch, HEADS * DIM), o)
            gate, up = F.linear(F.rms_norm(h, (HIDDEN,), norm), gate_up).chunk(2, -1)
            h = h + F.linear(F.silu(gate) * up, down)
        tokens.copy_(F.linear(F.rms_norm(h, (HIDDEN,), norm), head).argmax(-1))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(30):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    ms = sorted(times)[len(times) // 2]
    print(f"fp16 PyTorch {torch.__version__} batch {batch:2} context {context}: {ms:.3f} ms, {batch / ms * 1e3:.1f} tokens/s",
          flush=True)


for b in batches:
    measure(b)
