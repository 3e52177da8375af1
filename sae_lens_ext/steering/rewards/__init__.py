"""Rewards that a program can check: what `train_steering_vectors` trains towards.

Each is an object called as `reward(prompt, completion)` that gives 1.0 or 0.0. Any function with these two arguments that gives a finite number is a
reward as well, such as `lambda prompt, completion: right(prompt, completion) * short(prompt, completion)`.
"""

from sae_lens_ext.steering.rewards.boxed_equals import BoxedEquals
from sae_lens_ext.steering.rewards.last_number_equals import LastNumberEquals
from sae_lens_ext.steering.rewards.length_within import LengthWithin
from sae_lens_ext.steering.rewards.matches_pattern import MatchesPattern

__all__ = ["BoxedEquals", "LastNumberEquals", "LengthWithin", "MatchesPattern"]
