"""Turn the SSJF paper's published predictions into a workload that `ssjf simulate`, `compare` and `plan` read.

    python benchmarks/paper_workload.py PREDICTIONS.csv.gz out/paper.csv

A predicted class of five stands for the mean length of that class in the file.
"""

import argparse
import csv
from pathlib import Path

from ssjf.workload.predictions import read_predictions


def main() -> None:
    """Read the one, write the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    table = read_predictions(options.predictions, num_classes=5)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["output_tokens", "predicted_tokens"])
        writer.writerows(zip(table.output_tokens, table.expected_tokens, strict=True))


if __name__ == "__main__":
    main()
