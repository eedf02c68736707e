"""The tests that rounding could change, as other machines round: python bench/arithmetic.py [--kind NAME].

One process of pytest a kind of arithmetic, the tests of PATHS in each; prints the table of docs/testing.md.
Needs the extra `dev`. A quarter of an hour a kind on one slow core, rounding by itself three times that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from measure import arguments, report

ROOT = Path(__file__).resolve().parent.parent
PATHS = ["tests/tokenizer", "tests/baselines", "tests/train", "tests/mllm", "tests/eval", "tests/scenes"]
KINDS = {
    "as the machine is": {},
    "ATen without vectors": {"ATEN_CPU_CAPABILITY": "default"},
    "ATen with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN with SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "oneDNN with AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "MKL with AVX2": {"MKL_CBWR": "AVX2"},
    "MKL with SSE4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "NumPy and OpenBLAS with SSE3": {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "X86_V3"},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "four threads": {"OMP_NUM_THREADS": "4"},
    "bfloat16 as where it is native": {"DDT_TEST_BF16": "1"},
    "rounded by 1 unit": {"DDT_TEST_ROUNDING": "1:1"},
    "rounded by 1 unit, otherwise": {"DDT_TEST_ROUNDING": "2:1"},
    "rounded by 8 units": {"DDT_TEST_ROUNDING": "3:8"},
}


def run(environment: dict[str, str], paths: list[str], folder: Path) -> dict[str, object]:
    """Passed, failed by name, seconds."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "tests.arithmetic", "-p", "no:cacheprovider",
        "-m", "not slow and not gpu and not ray", "--junitxml", str(folder / "junit.xml"), *paths,
    ]  # fmt: skip
    told = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, check=False
    )
    if told.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {told.returncode}")
    suite = ElementTree.parse(folder / "junit.xml").getroot()[0]
    failed = [
        f"{case.get('classname')}::{case.get('name')}" for case in suite if case.find("failure") is not None
    ]
    count = int(suite.attrib["tests"]) - int(suite.attrib["skipped"])
    return {"passed": count - len(failed), "failed": failed, "seconds": float(suite.attrib["time"])}


def main() -> None:
    parser = arguments(__doc__, with_torch=False)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; may be repeated")
    parser.add_argument("paths", nargs="*", default=PATHS, help="files or folders of tests")
    options = parser.parse_args()
    results = {}
    for kind in options.kind or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            results[kind] = run(KINDS[kind], options.paths, Path(folder))
    print("| kind | variables | passed | failed |\n|---|---|---|---|")
    for kind, found in results.items():
        variables = " ".join(f"`{name}={value}`" for name, value in KINDS[kind].items())
        print(f"| {kind} | {variables} | {found['passed']} | {', '.join(found['failed']) or 'none'} |")
    report(options, results)


if __name__ == "__main__":
    main()
