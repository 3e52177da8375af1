"""Every public function of architectures, operations and analyses, called with every variant of every argument.

Writes reliability_calls.json: by function, how many cases gave the result of the plain argument, another right one, a refusal, or were
wrong, which must be 0. Takes some minutes on one core.
"""

import sys
from pathlib import Path

from result import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.reliability.calls.harness import tally
from tests.reliability.calls.rooms import CALLS

if __name__ == "__main__":
    table = tally(CALLS)
    ends = ("cases", "same", "right", "refused", "wrong")
    total = {end: sum(row[end] for row in table.values()) for end in ends}
    write_result(__file__, {"total": total, "by_function": table})
    print(total)
