from tests.support.relevance_fixtures import _seed, builder, images, small_vit  # noqa: F401
