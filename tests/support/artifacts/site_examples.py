"""Models of all sites of a small graph."""

from __future__ import annotations

from qvit_deploy.bench.sites.emission import emit_site, site_shape, tensor_shapes
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.targets.registry import TARGETS


def emitted(graph: Graph, batch: int, width: tuple[int, int], target: str = "onnxruntime") -> dict[str, bytes]:
    """Site -> its file, at one width."""
    shapes = tensor_shapes(graph, batch)
    nodes = {v.name: n for n in graph.nodes() for v in n.outputs}
    return {
        s.name: emit_site(site_shape(s, nodes[s.product], shapes), width, TARGETS[target]) for s in find_sites(graph)
    }
