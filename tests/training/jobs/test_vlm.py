import torch

from softdecode.images import to_unit_range
from softdecode.training.jobs.vlm import encode_tokens
from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer
from softdecode.vlm.base import nearest_tokens
from softdecode.vlm.janus_tokenizer import JanusTokenizer


def test_tokens_do_not_depend_on_the_batch(make_pictures):
    torch.manual_seed(0)
    config = TokenizerConfig(codes=32, code_dim=4, base_channels=32, channel_multiplier=(1, 1, 1))
    tokenizer = JanusTokenizer(build_tokenizer(config, 16, 32).eval())
    images = make_pictures(7, 16)
    found = encode_tokens(tokenizer, images, batch_size=3)
    assert found.shape == (7, 4, 4)
    assert found.dtype == torch.int64
    features = tokenizer.features(to_unit_range(images))
    assert torch.equal(found, nearest_tokens(features, tokenizer.codebook))
