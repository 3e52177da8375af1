"""Training steering vectors with a reward, and measuring what a reward says of a steered model."""

from sae_lens_ext.steering.training.early_stop import EarlyStop
from sae_lens_ext.steering.training.measure import measure_reward
from sae_lens_ext.steering.training.reward_calls import RewardError
from sae_lens_ext.steering.training.reward_measurement import RewardMeasurement
from sae_lens_ext.steering.training.settings import learning_rates_by_depth
from sae_lens_ext.steering.training.train import train_steering_vectors
from sae_lens_ext.steering.training.training_log import TrainingLog, plot_training_logs

__all__ = [
    "EarlyStop",
    "RewardError",
    "RewardMeasurement",
    "TrainingLog",
    "learning_rates_by_depth",
    "measure_reward",
    "plot_training_logs",
    "train_steering_vectors",
]
