"""Seconds an epoch and memory of a pi-limit as it grows, with and without compression.

    python benchmarks/pilimit.py [--epochs 5] [--pictures 5000] [--rank 200] [--batch 8] [--max-rows 8000]

Depth 2, ReLU, float32, on the CIFAR-10 sample found through TP4_DATA (scikit-learn's digits where there is none): the
same run with rows that grow for ever, with at most ``max-rows`` a layer, and with that bound and bfloat16 rows. Writes
``benchmarks/results/pilimit.json``.
"""

import argparse
import multiprocessing
import time
from pathlib import Path

import torch

from tp4lib.base.files import out_dir, write_json
from tp4lib.base.memory import own_peak
from tp4lib.data import images
from tp4lib.data.provenance import environment
from tp4lib.pi_limit.network import PiMLP

HERE = Path(__file__).resolve().parent


def accuracy(net: PiMLP, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return 100 * (torch.cat([net(part) for part in x.split(250)]).argmax(1) == y).double().mean().item()


def run(data: images.Images, args: argparse.Namespace, **options) -> dict:
    """Train; one row an epoch."""
    d = data.train_x.shape[1]
    x, x_test = data.train_x / d**0.5, data.test_x / d**0.5
    net = PiMLP(d, 10, args.rank, 2, sigma_in=2.0, seed=args.seed, **options)
    generator, count = torch.Generator().manual_seed(args.seed), len(x) // args.batch
    rows = []
    for epoch in range(args.epochs):
        order, begun, loss = torch.randperm(len(x), generator=generator), time.perf_counter(), 0.0
        for step in range(count):
            index = order[step * args.batch : (step + 1) * args.batch]
            rate = args.lr * (1 - (epoch * count + step) / (args.epochs * count))
            loss += net.loss_step(x[index], data.train_y[index], rate).item() / count
        rows.append(
            {
                "epoch": epoch + 1,
                "seconds": time.perf_counter() - begun,
                "rows_per_layer": [len(layer) for layer in net.layers],
                "weights_mb": net.nbytes / 2**20,
                "peak_rss_mb": own_peak() / 2**20,
                "loss": loss,
                "test_accuracy": accuracy(net, x_test, data.test_y),
                "largest_compression_error": max(
                    (report.error for layer in net.layers for report in layer.compressions), default=0.0
                ),
            }
        )
        print(
            options, {k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True
        )
    return {"options": {k: str(v) for k, v in options.items()}, "epochs": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(epochs=5, pictures=5000, rank=200, batch=8, max_rows=8000, seed=0).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    data = images.load("cifar10", side=args.side)
    data = data._replace(train_x=data.train_x[: args.pictures], train_y=data.train_y[: args.pictures])
    out = out_dir(args.out)
    cases = {
        "bounded": dict(max_rows=args.max_rows),
        "bounded, bfloat16 rows": dict(max_rows=args.max_rows, storage=torch.bfloat16),
        "unbounded": {},
    }
    runs = {}
    for name, options in cases.items():  # a process each, so that each has a peak of memory of its own
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            runs[name] = pool.apply(run, (data, args), options)
    final = {name: r["epochs"][-1]["test_accuracy"] for name, r in runs.items()}
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    write_json(
        out / "pilimit.json",
        {"data": data.label, "settings": settings, "runs": runs, "final_test_accuracy": final}
        | environment(),
    )
    print(final)


if __name__ == "__main__":
    main()
