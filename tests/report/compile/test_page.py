"""The report is one well-formed file that loads nothing, runs nothing and believes no name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.recipe import Recipe
from qvit_deploy.report.compile.page import render_report
from tests.support.artifacts.manifests import SUMMARY, VERIFIED, manifest, site, swin_sites, vit_sites
from tests.support.html_page import Page


def page(shown: Manifest) -> Page:
    return Page(render_report(shown, []))


CASES = {
    "vit": manifest(vit_sites(2)),
    "one site": manifest([site("head")]),
    "200 sites": manifest(vit_sites(50)[:200]),
    "swin": manifest(swin_sites(), recipe={"attention": "integer"}),
    "no scores": manifest([site(f"blocks.{i}.fc", score=None) for i in range(3)]),
    "some scores": manifest([site("a", score=None), site("b", score=0.2), site("c", score=0.8)]),
    "scores 0": manifest([site(f"blocks.{i}.fc", score=0.0) for i in range(3)]),
    "all float": manifest([site("a", w_bits=None, a_bits=None)]),
    "no sites": manifest([]),
    "bare": manifest([site("a")], verification={}, recipe={}, source={}, files={}, calibration={}, relevance={}),
    "nothing counted": manifest([site("a", params=0, macs=0)], summary=dict.fromkeys(SUMMARY, 0)),
    "odd widths": manifest([site("a", w_bits=1, a_bits=16), site("b", w_bits=40, a_bits=3)]),
    "odd names": manifest(
        [site(n) for n in ("", ".", "0", "1.2", "$x_", "$x^{", "層.3.注意", "a\x00\n\u202eb", "x" * 500)]
    ),
}


@pytest.mark.parametrize("shown", CASES.values(), ids=CASES.keys())
def test_well_formed_and_self_contained(shown: Manifest) -> None:
    html = page(shown)
    ids = [a["id"] for _, a in html.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in html.elements:
        assert tag not in ("script", "link", "iframe", "img", "object", "embed", "base", "image", "foreignobject")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value is not None and value.startswith("#") and value[1:] in ids
            if name == "style":
                assert value is not None and value.count("url(") == value.count("url(#")


@pytest.mark.parametrize("shown", CASES.values(), ids=CASES.keys())
def test_styles_name_only_colours_the_page_has(shown: Manifest) -> None:
    document = render_report(shown, []).decode()
    used = {part.split(")")[0] for part in document.split("var(--")[1:]}
    assert {name for name in used if f"--{name}:" not in document} <= {"c"}  # set where it is used
    assert "#0a0" not in document  # the stand-ins of qvit_deploy.report.svg


def test_the_same_manifest_gives_the_same_bytes() -> None:
    assert render_report(manifest(vit_sites(3)), []) == render_report(manifest(vit_sites(3)), [])


def test_neither_a_matplotlibrc_nor_its_own_digest_changes_the_report() -> None:
    import matplotlib

    shown = manifest(vit_sites(1))
    files = {**shown.files, "report.html": {"bytes": 1, "sha256": "b" * 64}}
    with_digest = Manifest.model_validate({**shown.model_dump(by_alias=True), "files": files})
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True}):
        assert render_report(with_digest, []) == render_report(shown, [])


def test_names_are_text_not_markup() -> None:
    evil = '<script>alert("1")</script>&amp;'
    other = "--!><svg/onload=x>'\""
    shown = manifest(
        [site(evil, role=evil), site(f"blocks.0.{other}")],
        source={"model": evil, "preprocess": {"color": evil}},
        recipe={"score": evil, evil: other},
        relevance={"method": evil, "firings": {other: 3}},
        calibration={"sha256": other},
        verification={**VERIFIED, "worst_site": evil, "optimized_ops": {evil: 1}},
        files={f"{evil.replace('/', '')}.onnx": {"bytes": 1, "sha256": "a" * 64}},
    )
    document = render_report(shown, [])
    page = Page(document)
    assert b"<script" not in document and b"<svg/onload" not in document
    assert not {tag for tag, _ in page.elements} & {"script", "svg/onload"}
    assert evil in page.text and other in page.text


def test_the_headline_says_costs_and_how_sure_the_agreement_is() -> None:
    text = page(CASES["vit"]).text
    assert "13.5 MB 6.4× smaller than 85.9 MB in float" in text
    assert "37.0 G 38.6× fewer than 1,428 G in float" in text
    assert "87.5 % 28 of 32 images keep their top-1; 95 % interval 72 to 95 %" in text
    assert "12.7 dB logit error is 23.1 % of the signal, rms (n = 32)" in text
    assert "5.03 / 4.84" in text


def test_verification_is_told_in_words() -> None:
    text = page(CASES["vit"]).text
    assert "✓ Activation codes 8,538,624 compared on 4 images: all equal" in text
    assert "blocks.1.mlp.fc2: 9.5e-06 of its largest value" in text
    assert "✓ Integer products 9 of 9 fused" in text
    assert "MatMulIntegerToFloat 9 Add 3" in text


def test_a_failed_check_looks_failed() -> None:
    broken = {**VERIFIED, "code_mismatches": 7, "integer_products": 8}
    text = page(manifest(vit_sites(1), verification=broken)).text
    assert "✗ Activation codes 8,538,624 compared on 4 images: 7 differ" in text
    assert "✗ Integer products 8 of 9 fused 1 run in floating point" in text
    assert "✓" not in text


def test_products_in_floating_point_are_named() -> None:
    some = {**VERIFIED, "float_products": [f"blocks.{b}.attn.av" for b in range(4)]}
    text = page(manifest(vit_sites(1), verification=some)).text
    assert "Products in floating point 4: blocks.0.attn.av, blocks.1.attn.av, blocks.2.attn.av, ..." in text
    assert "Products in floating point" not in page(CASES["vit"]).text


def test_half_precision_files_have_a_row_each() -> None:
    half = {"codes": 1000, "code_mismatches": 0, "free_codes_equal": 0.815, "in_float": {"<head>": "too narrow"}}
    shown = manifest(vit_sites(1), verification={**VERIFIED, "profiles": {"tensorrt": half, "tensorrt-rtx": {}}})
    text = page(shown).text
    assert (
        "✓ File for tensorrt 1,000 codes compared: all equal; 81.5 % running freely; 1 in floating point: <head>"
        in text
    )
    assert "File for tensorrt-rtx" not in text
    broken = manifest(vit_sites(1), verification={"profiles": {"tensorrt": {"codes": 9, "code_mismatches": 2}}})
    assert "✗ File for tensorrt 9 codes compared: 2 differ" in page(broken).text


def test_a_target_of_another_version_has_a_row_too() -> None:
    shown = manifest(vit_sites(1), verification={"profiles": {"abacus": {"codes": 9, "code_mismatches": 0, "x": [1]}}})
    assert "✓ File for abacus 9 codes compared: all equal The file, and the one" in page(shown).text


def test_what_is_missing_is_said() -> None:
    assert "recorded no relevance scores" in page(CASES["no scores"]).text
    assert "Every relevance score is 0" in page(CASES["scores 0"]).text
    assert "1 of the sites have no score" in page(CASES["some scores"]).text
    assert "Attention products (QK and AV) stay in floating point" in page(CASES["vit"]).text
    assert "stay in floating point" not in page(CASES["swin"]).text
    bare = page(CASES["bare"]).text
    assert bare.count("not measured") == 2 and "nothing is proved about this bundle" in bare
    exact = page(manifest([site("a")], verification={"float_sqnr_db": 200.0})).text
    assert "exact logits equal the float model's" in exact


def test_every_site_is_in_the_table_and_under_the_plot() -> None:
    shown = CASES["200 sites"]
    html = page(shown)
    assert len(shown.sites) == 200
    for s in shown.sites:
        assert s.name in html.words
    assert html.words.count("qkv") == sum(s.name.endswith("qkv") for s in shown.sites)


def test_the_recipe_can_be_saved_and_compiled_again(tmp_path: Path) -> None:
    recipe = Recipe(mean_bits=5.0, seed=3, compensate="bias")
    toml = next(w for w in page(manifest(vit_sites(1), recipe=recipe.model_dump(mode="json"))).words if "seed =" in w)
    (tmp_path / "recipe.toml").write_text(toml, encoding="utf-8")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    assert "# uniform: none" in toml


def test_a_manifest_read_back_gives_the_same_report() -> None:
    shown = CASES["swin"]
    assert render_report(Manifest.model_validate(json.loads(shown.to_json())), []) == render_report(shown, [])


def test_layers_that_no_target_quantizes_are_named() -> None:
    layer = {"name": "neck.up", "operator": "ConvTranspose", "params": 512}
    shown = manifest(vit_sites(3), in_float=[layer])
    assert (
        "In floating point in every file, and in no number on this page: neck.up (ConvTranspose)." in page(shown).text
    )
    assert json.loads(shown.to_json())["in_float"] == [layer]
    assert "in_float" not in json.loads(manifest(vit_sites(3)).to_json())
