"""What of SAELens' notes a command keeps from the screen."""

import logging
import warnings


def quieten() -> None:
    """Leave progress bars and results on the screen, not what SAELens says of settings chosen on purpose."""
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    for message in (
        "The training dataset contains fewer samples",  # it counts contexts, and compares them with tokens
        "All samples in the training dataset have been exhausted",
        "To copy construct from a tensor",  # how it reads pre-tokenised rows
    ):
        warnings.filterwarnings("ignore", message=message)
