"""A FlowGraph as one interactive HTML file that needs neither a server nor the network."""

from sae_lens_ext.analysis.flow.page.write import MAX_NODES, write_page

__all__ = ["MAX_NODES", "write_page"]
