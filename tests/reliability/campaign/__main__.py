"""The command line of the campaign; see the package."""

import argparse
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSIDE = "CAMPAIGN_HAS_MOUNTS"


def main() -> int:
    """Run the draws that the file does not have; return 1 if any was not survived."""
    parser = argparse.ArgumentParser(prog="python tests/reliability/campaign")
    parser.add_argument("--draws", default="0:300", help="FIRST:END, or some: 3,7,9")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    flags = parser.parse_args()
    if INSIDE not in os.environ:
        _start_in_namespace()
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[2])]
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    logging.getLogger("absl").setLevel(logging.ERROR)
    from campaign.draws import Campaign, format_table, read_file

    numbers = _read_numbers(flags.draws)
    done = read_file(flags.out)
    campaign = Campaign(mounts=os.environ.get(INSIDE) == "yes")
    try:
        with flags.out.open("a") as file:
            for number in numbers:
                if number not in done:
                    done[number] = campaign.run(number)
                    file.write(json.dumps(done[number]) + "\n")
                    file.flush()
    finally:
        campaign.close()
    lines = [done[number] for number in numbers]
    print(format_table(lines))
    failed = [line for line in lines if line["survived"] is False]
    for line in failed:
        what = f"{line['attack']} in {line['phase']}, {line['outcome']}"
        print(f"draw {line['seed']}: {what}: {line['detail']}")
    return bool(failed)


def _read_numbers(text: str) -> list[int]:
    first, colon, end = text.partition(":")
    if colon:
        return list(range(int(first), int(end)))
    return [int(number) for number in text.split(",")]


def _start_in_namespace() -> None:
    """Start this program anew where it may mount disks; go on here if it cannot."""
    os.environ[INSIDE] = "no"
    for flags in ("-m", "-Urm"):
        command = ["unshare", flags, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        try:
            if subprocess.run(command, capture_output=True).returncode == 0:
                os.environ[INSIDE] = "yes"
                words = ["unshare", flags, sys.executable, *sys.argv]
                os.execvp("unshare", words)
        except FileNotFoundError:
            return


if __name__ == "__main__":
    sys.exit(main())
