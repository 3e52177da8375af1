"""Write the card of SAEs before publishing them on the Hugging Face hub, and see what a reader will copy from it.

Nothing is sent: the card is written from the SAEs alone. Two SAEs are shared here, one that loads with SAELens alone and one that needs this
package; the script saves both, prints their card and the commands that publish them.

Takes a second. They are not trained, so that their numbers mean nothing.
"""

import os
from pathlib import Path

from sae_lens_ext import (
    HierarchicalTopKTrainingSAE,
    HierarchicalTopKTrainingSAEConfig,
    KronTrainingSAE,
    KronTrainingSAEConfig,
    model_card,
    save_sae,
)

SMALL = os.environ.get("SAE_LENS_EXT_SMALL") == "1"  # tiny budgets for continuous integration
D_SAE = 256 if SMALL else 2048
OUTPUT = Path("output/to_share")
REPOSITORY = "me/my-saes"  # your user name, or that of an organisation, and a name of your choice

size = {"d_in": 576, "d_sae": D_SAE, "k": 32}
saes = {
    "nested": HierarchicalTopKTrainingSAE(HierarchicalTopKTrainingSAEConfig(**size)),
    "kron": KronTrainingSAE(KronTrainingSAEConfig(**size, base_dim=4, extension_dim=4)),
}
for name, sae in saes.items():
    # A runner fills these in; the card takes model and hook from them.
    sae.cfg.metadata.model_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    sae.cfg.metadata.hook_name = "blocks.10.hook_out"
    save_sae(sae, OUTPUT / name)

card = model_card(saes, REPOSITORY, license="mit")
(OUTPUT / "README.md").write_text(card, encoding="utf-8")
print(card)
print(f"The card is in {OUTPUT / 'README.md'}. To publish, log in with `hf auth login`, and then either")
print(f"  sae-lens-ext upload {OUTPUT} --repo {REPOSITORY} --license mit")
print("or, in Python,")
print(f'  upload_to_hub(saes, "{REPOSITORY}", license="mit")')
