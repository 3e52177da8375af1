"""Publishing SAEs on the Hugging Face hub: what may go there, the card, the upload."""

from sae_lens_ext.hub.card import model_card
from sae_lens_ext.hub.errors import HubUploadError
from sae_lens_ext.hub.upload import HubUpload, upload_to_hub

__all__ = ["HubUpload", "HubUploadError", "model_card", "upload_to_hub"]
