"""What every width costs at every site, as the recipe's score sees it: the table the allocator minimises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.calibrate.products import ProductSample
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.grid import Tensor
from qvit_deploy.quantize.losses import SiteError, site_errors
from qvit_deploy.quantize.plan import Grids
from qvit_deploy.quantize.sensitivity import relp_sensitivity
from qvit_deploy.recipe import Rules, Score
from qvit_deploy.relevance.lrp import site_relevance
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.relevance.scores import Scores


def rank_sites(
    score: Score,
    rules: Rules,
    graph: Graph,
    sites: Sequence[Site],
    observations: Mapping[str, Observation],
    weights: Mapping[str, Tensor],
    grids: Grids,
    widths: Sequence[int],
    batches: Iterable[Tensor],
    products: Mapping[str, ProductSample],
    progress: Callable[[int], None],
) -> tuple[dict[str, SiteError], Scores]:
    """(site name -> loss by width and operand, one score per site).

    `lrp`: relative output error times the site's share of LRP relevance under `rules`: an error matters as much as the
    decision rests on the layer. `relp`: the RelP estimate of the logit change (`sensitivity`). `uniform`: the
    relative output error alone, every site equally important.
    """
    if score == "relp":
        relp = RULE_SETS["relp"]
        losses, images = relp_sensitivity(graph, sites, weights, grids, widths, batches, relp, progress)
        narrowest = min(widths)
        total = sum(loss.at(narrowest, narrowest) for loss in losses.values()) or 1.0
        values = {name: loss.at(narrowest, narrowest) / total for name, loss in losses.items()}
        return losses, Scores(values, "relp:sensitivity", images, {})
    errors = site_errors(sites, observations, weights, grids, widths, products)
    if score == "uniform":
        return errors, Scores({s.name: 1 / len(sites) for s in sites}, "uniform", 0, {})
    scores = site_relevance(graph, sites, batches, RULE_SETS[rules], progress=progress)
    weighted = {name: error.scaled(scores.values[name]) for name, error in errors.items()}
    return weighted, scores
