"""One TopK SAE with its latents divided over the ranks of a job: this rank's share, which trains as the whole would.

    x̂ = b_dec + Σ_ranks Σ_{f on the rank, f among the k best of all} z_f e_f

Each rank encodes every token with its own latents, learns which of them are among the k best of all, decodes those, and the ranks add up
what they decoded. A step sends k scores and d_in numbers a token.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sae_lens import TopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import act_times_W_dec
from typing_extensions import override

from sae_lens_ext.architectures.hierarchical_topk import HierarchicalTopKTrainingSAE
from sae_lens_ext.architectures.ranked_latents import (
    LowestIndexTopK,
    RankedLatents,
    as_coo,
    encoder_input,
)
from sae_lens_ext.architectures.training_step import require_finite_activations, train_step_output
from sae_lens_ext.ops import sparse_decode
from sae_lens_ext.ranks import Ranks, current_ranks
from sae_lens_ext.training.tensor_parallel.dead_latents import divided_dead_latent_loss
from sae_lens_ext.training.tensor_parallel.encoder import divided_topk_encode
from sae_lens_ext.training.tensor_parallel.initial_weights import as_in_the_whole
from sae_lens_ext.training.tensor_parallel.operators import copy_to_ranks, sum_over_ranks
from sae_lens_ext.training.tensor_parallel.refusals import require_divisible, require_unwatched
from sae_lens_ext.training.tensor_parallel.saved import read_weights_share, save_weights
from sae_lens_ext.training.tensor_parallel.shares import own_latents


class DividedTopKTrainingSAE(HierarchicalTopKTrainingSAE):
    """This rank's latents of a TopK SAE; all ranks must make one, and call its methods together.

    `cfg.d_sae` is this rank's number of latents, and so is the last axis of everything that has one number a latent; `whole_cfg` describes the
    SAE that they make up. Losses, reconstructions and `b_dec` are the same on every rank.

    Args:
        cfg: The undivided SAE's: TopK, or HierarchicalTopK with the one budget k.
        ranks: Who holds the shares; the ranks of this job if None.

    Raises:
        ValueError: The SAE is of another kind, its latents cannot be divided evenly, or k is not in 1..d_sae.
        RankError: In its methods: a rank does not answer.

    Example:
        >>> from sae_lens import TopKTrainingSAEConfig
        >>> DividedTopKTrainingSAE(TopKTrainingSAEConfig(d_in=8, d_sae=32, k=4)).own
        slice(0, 32, None)
    """

    def __init__(self, cfg: TopKTrainingSAEConfig, ranks: Ranks | None = None) -> None:
        self.ranks = current_ranks() if ranks is None else ranks
        require_divisible(cfg)
        self.own = own_latents(cfg.d_sae, self.ranks)
        own_cfg = copy.copy(cfg)  # its own checks would refuse a k that is larger than a rank's share
        own_cfg.d_sae = cfg.d_sae // self.ranks.size
        super().__init__(own_cfg)  # type: ignore[arg-type]

    @property
    def whole_cfg(self) -> TopKTrainingSAEConfig:
        """The configuration of the undivided SAE, as it stands now."""
        return replace(self.cfg, d_sae=self.cfg.d_sae * self.ranks.size)

    @override
    def initialize_weights(self) -> None:
        """Draw what the undivided SAE of the same seed, made on the CPU, draws for these latents."""
        with as_in_the_whole(self, self.own, self.ranks):
            super().initialize_weights()

    @override
    def get_activation_fn(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return LowestIndexTopK(
            min(self.cfg.k, self.cfg.d_sae)
        )  # never called: the latents of all ranks compete

    @override
    def _rank(self, x: torch.Tensor, k: int) -> RankedLatents:
        norms = self._norms()
        weights, indices = divided_topk_encode(
            x, self.W_enc, self.b_enc, k, self.ranks, b_in=self._input_bias(), rank_scale=norms
        )
        return RankedLatents(weights if norms is None else weights * norms[indices], weights, indices)

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Take SAELens' TopK training step on the whole SAE.

        Args:
            step_input: The same batch of activations [B, d_in] on every rank; `dead_neuron_mask` [d_sae/N] is of this rank's latents.

        Returns:
            The step's output: losses and `sae_out` of the whole SAE; `feature_acts` and `hidden_pre` are this rank's latents kept, as one detached
            sparse COO tensor [B, d_sae/N]. Gradients are those of this rank's parameters in the whole SAE, and of b_dec the same on all.

        Raises:
            NonFiniteTrainingError: The activations or the loss hold NaN or infinity.
            ValueError: A hook is on the input or the latents.
            RankError: A rank does not answer.
        """
        require_unwatched(self)
        require_finite_activations(step_input)
        x = step_input.sae_in
        latents = self._rank(encoder_input(self, x), self.cfg.k)
        feature_acts = as_coo(latents, self.cfg.d_sae)
        with torch.autocast(x.device.type, enabled=False):
            rows = self.W_dec.to(torch.promote_types(self.W_dec.dtype, torch.float32))
            reconstruction = self._decoded(sparse_decode(latents.weights, latents.indices, rows))
            mse_loss = (reconstruction - x).pow(2).sum(dim=-1).mean()
        reconstruction = reconstruction.detach().to(x.dtype)
        return train_step_output(
            step_input,
            sae_out=self.hook_sae_recons(reconstruction),
            feature_acts=feature_acts,
            hidden_pre=feature_acts,
            mse_loss=mse_loss,
            aux_losses=self.calculate_aux_loss(step_input, feature_acts, feature_acts, reconstruction),
            metrics={},
        )

    @override
    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: torch.Tensor,
        hidden_pre: torch.Tensor,
        sae_out: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Let the best d_in/2 dead latents of all ranks rebuild the error, as SAELens' TopK does."""
        loss, dead, x = sae_out.new_zeros(()), step_input.dead_neuron_mask, step_input.sae_in
        if dead is not None and self.cfg.aux_loss_coefficient != 0:
            on_ranks = self.ranks.tell.gather(dead.sum(), "counting the dead latents").tolist()
            n_dead, k_aux = sum(on_ranks), x.shape[-1] // 2
            if n_dead > 0:
                found = self._dead_latents(dead.nonzero().flatten())
                common = (self._copied(b_in) for b_in in found.parameters[2:])
                found = replace(found, parameters=(*found.parameters[:2], *common))
                loss = divided_dead_latent_loss(
                    found, encoder_input(self, x), x - sae_out, min(k_aux, n_dead), max(on_ranks), self.ranks
                )
                loss = self.cfg.aux_loss_coefficient * min(n_dead / k_aux, 1.0) * loss
        return {"auxiliary_reconstruction_loss": loss}

    @override
    def encode_sparse(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode to those of the k latents of each token that are this rank's.

        Args:
            x: Activations, shape [..., d_in].

        Returns:
            Values and indices in 0..d_sae/N−1, each [..., m], largest first, m ≤ k; slots left over have value 0.
        """
        require_unwatched(self)
        inputs = encoder_input(self, x)
        found = self._rank(inputs.reshape(-1, inputs.shape[-1]), self.cfg.k)
        shape = (*inputs.shape[:-1], found.acts.shape[-1])
        return found.acts.view(shape), found.indices.view(shape)

    @override
    def encode_with_hidden_pre(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give this rank's latents [..., d_sae/N], dense, twice: the pre-activations of the others are not known."""
        values, indices = self.encode_sparse(x)
        acts = values.new_zeros(*values.shape[:-1], self.cfg.d_sae).scatter(-1, indices, values)
        return acts, acts

    @override
    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor:
        """Decode the latents of all ranks, of which each gives its own [..., d_sae/N], to [..., d_in]."""
        own = act_times_W_dec(feature_acts, self.W_dec, self.cfg.rescale_acts_by_decoder_norm)
        out = self.run_time_activation_norm_fn_out(self.hook_sae_recons(self._decoded(own).to(own.dtype)))
        return self.reshape_fn_out(out, self.d_head)

    @override
    def get_name(self) -> str:
        """Give SAELens' name of the whole SAE."""
        return super().get_name().rpartition("_")[0] + f"_{self.whole_cfg.d_sae}"

    @override
    def log_histograms(self) -> dict[str, Any]:
        """Log none: this rank has a share of the rows."""
        return {}

    @override
    def save_model(self, path: str | Path) -> tuple[Path, Path]:
        """Write the undivided SAE, from the first rank; only that one's files are there when this returns."""
        state = self.state_dict()
        self.process_state_dict_for_saving(state)
        return save_weights(path, state, self.whole_cfg.to_dict(), self.ranks)

    @override
    def save_inference_model(self, path: str | Path) -> tuple[Path, Path]:
        """Do as `save_model` with the SAE that is used afterwards."""
        state = self.state_dict()
        self.process_state_dict_for_saving_inference(state)
        return save_weights(path, state, self.whole_cfg.get_inference_sae_cfg_dict(), self.ranks)

    @override
    def load_weights_from_checkpoint(self, checkpoint_path: Path | str) -> None:
        """Read this rank's share of an undivided SAE's weights, and no more.

        Raises:
            ValueError: The folder holds an SAE of another size.
        """
        state = read_weights_share(checkpoint_path, self.state_dict(), self.own, self.ranks)
        self.process_state_dict_for_loading(state)
        self.load_state_dict(state)

    def _decoded(self, own: torch.Tensor) -> torch.Tensor:
        term = own.to(torch.promote_types(own.dtype, torch.float32))
        return sum_over_ranks(term, self.ranks, "adding up the reconstructions") + self.b_dec

    def _input_bias(self) -> torch.Tensor | None:
        return self._copied(self.b_dec) if self.cfg.apply_b_dec_to_input else None

    def _copied(self, b_in: torch.Tensor) -> torch.Tensor:
        return copy_to_ranks(b_in, self.ranks, "using the decoder bias on the input")
