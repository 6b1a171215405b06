"""Further training of a VQ decoder: the tokens stay, the pictures get better."""

import torch

from softdecode.images import to_unit_range
from softdecode.training.config import LoopConfig
from softdecode.training.loop import train
from softdecode.training.tokenizer import TokenizerConfig, build_tokenizer
from softdecode.training.vq_decoder import VqDecoderTask
from softdecode.vlm.base import nearest_tokens
from softdecode.vlm.janus_tokenizer import JanusTokenizer


def make_task(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = TokenizerConfig(codes=32, code_dim=4, base_channels=32, channel_multiplier=(1, 1, 1))
        model = build_tokenizer(config, 16, 32)
    return VqDecoderTask(model, images, "none")


def test_the_loss_is_that_of_the_tokenizers_own_round_trip(make_pictures, make_batch):
    images = make_pictures(6, 16)
    task = make_task(images).eval()
    tokenizer = JanusTokenizer(task.model)
    unit = to_unit_range(images)
    with torch.no_grad():
        found = task(make_batch(task), 0)
        tokens = nearest_tokens(tokenizer.features(unit), tokenizer.codebook)
        decoded = task.model.decode(tokens.flatten(1))
    torch.testing.assert_close(found["mse"], (decoded - unit).square().mean())
    torch.testing.assert_close(found["loss"], found["l1"] + found["mse"])


def test_tokens_stay_and_pictures_come_nearer(make_pictures, make_batch, tmp_path):
    images = make_pictures(12, 16)
    task = make_task(images)
    tokenizer, unit = JanusTokenizer(task.model), to_unit_range(images)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    with torch.no_grad():
        tokens = nearest_tokens(tokenizer.features(unit), tokenizer.codebook)
        loss = task(make_batch(task, 12), 0)["loss"]
    config = LoopConfig(steps=40, batch_size=6, learning_rate=3e-3, warmup_steps=2, precision="fp32", ema_decay=0.5)
    train(task, config, tmp_path, job={})
    with torch.no_grad():
        assert torch.equal(tokens, nearest_tokens(tokenizer.features(unit), tokenizer.codebook))
        assert task(make_batch(task, 12), 0)["loss"] < 0.8 * loss
    changed = {name.split(".")[0] for name, value in task.model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_the_tokens_under_autocast_are_those_of_float32(make_pictures, make_batch):
    """Else the decoder would be trained on other codes than it decodes."""
    task = make_task(make_pictures(6, 16)).eval()
    batch, seen = make_batch(task), []
    hook = task.model.post_quant_conv.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        task(batch, 0)
        with torch.autocast("cpu", torch.bfloat16):
            task(batch, 0)
    hook.remove()
    assert torch.equal(*seen)


def test_a_preview_shows_pictures_and_what_the_decoder_makes_of_them(make_pictures):
    task, others = make_task(make_pictures(6, 16)).eval(), make_pictures(2, 16, seed=9)
    held_out = VqDecoderTask(task.model, task.images, "none", shown=others).eval()
    with torch.no_grad():
        before = held_out.preview(0)
        assert before.size[1] < task.preview(0).size[1], "two pictures, not six"
        task.model.decoder.conv_out.bias.add_(1.0)
        assert held_out.preview(0).tobytes() != before.tobytes(), "what is shown is what has been learnt"
