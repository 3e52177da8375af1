"""Every call of steering and LIMe with every wrong value for every argument; writes how many cases there were and what was wrong.

python benchmarks/reliability_steering_calls.py
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from result import write_result

from tests.reliability.calls import lime_calls, steering_calls

TABLE = Path(__file__).resolve()


def main() -> None:
    """Judge all cases, in a folder that is thrown away."""
    table: dict[str, dict[str, int]] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for call in (*steering_calls.calls(), *lime_calls.calls()):
            own = Path(folder, call.name)
            own.mkdir()
            os.chdir(own)  # where "folder" may be a name
            found = [call.judge(argument, value) for argument, value in call.cases()]
            table[call.name] = {"cases": len(found), "wrong": sum(one is not None for one in found)}
            wrong += [one for one in found if one is not None]
            print(call.name, table[call.name], flush=True)
    cases = sum(row["cases"] for row in table.values())
    write_result(str(TABLE), {"cases": cases, "wrong": wrong, "calls": table})


if __name__ == "__main__":
    main()
