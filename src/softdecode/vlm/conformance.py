"""What every VLM family must hold, as a test class: subclass it, and give it a fixture `vlm`.

    class TestMyFamily(VlmConformance):
        prompts = ("a red apple", "a blue fish on a table", "x")

        @pytest.fixture
        def vlm(self): ...

The VLM should be tiny, with weights large enough that its logits depend on the prompt and on the tokens before.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from softdecode.calibration import Calibration
from softdecode.errors import SoftDecodeError
from softdecode.mapping import TokenDistribution
from softdecode.vlm.base import ImageTokenizer, ImageTokenModel, SamplingConfig, nearest_tokens

GUIDED = SamplingConfig(guidance_scale=2.5, temperature=1.0)


class VlmConformance:
    """Tests of the contract `ImageTokenModel`; `prompts` are at least three, of different lengths where it has text."""

    prompts: Sequence[str] = ("a red apple", "a blue fish on a table", "x")

    def draw(
        self, vlm: ImageTokenModel, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig = GUIDED
    ) -> tuple[TokenDistribution, Tensor]:
        """The distribution, and the guided, tempered logits [B, N, V] behind it."""
        seen: list[Tensor] = []
        found = vlm.sample(
            prompts, seeds=seeds, sampling=sampling, on_logits=lambda logits: seen.append(logits.clone())
        )
        return found, torch.stack(seen, dim=1).float()

    def test_it_has_what_the_contract_asks_for(self, vlm: ImageTokenModel) -> None:
        assert isinstance(vlm, ImageTokenModel)
        tokenizer = vlm.tokenizer
        assert isinstance(tokenizer, ImageTokenizer)
        assert tokenizer.codebook.dtype == torch.float32
        lengths = tokenizer.codebook.norm(dim=-1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
        assert isinstance(vlm.name, str)
        assert vlm.name

    def test_the_tokenizer_encodes_and_decodes_its_own_size(self, vlm: ImageTokenModel) -> None:
        tokenizer = vlm.tokenizer
        images = torch.rand(2, 3, *tokenizer.image_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        features = tokenizer.features(images)
        assert features.shape == (2, *tokenizer.grid, tokenizer.codebook.shape[1])
        tokens = nearest_tokens(features, tokenizer.codebook)
        decoded = tokenizer.decode(tokens)
        assert decoded.shape == images.shape
        assert decoded.abs().max() <= 1
        torch.testing.assert_close(tokenizer.decode_codes(3 * tokenizer.codebook[tokens]), decoded, rtol=0, atol=1e-4)

    def test_an_image_depends_on_its_own_prompt_and_seed_alone(self, vlm: ImageTokenModel) -> None:
        seeds = list(range(11, 11 + len(self.prompts)))
        together, _ = self.draw(vlm, self.prompts, seeds)
        backwards, _ = self.draw(vlm, self.prompts[::-1], seeds[::-1])
        for place, (prompt, seed) in enumerate(zip(self.prompts, seeds, strict=True)):
            alone, _ = self.draw(vlm, [prompt], [seed])
            for other in (together[[place]], backwards[[len(self.prompts) - 1 - place]]):
                assert torch.equal(other.tokens, alone.tokens)
                torch.testing.assert_close(other.codes, alone.codes, rtol=0, atol=1e-4)
                torch.testing.assert_close(other.uncertainty, alone.uncertainty, rtol=0, atol=1e-3)

    def test_seed_prompt_and_earlier_tokens_matter(self, vlm: ImageTokenModel) -> None:
        first, second = self.prompts[:2]
        found, logits = self.draw(vlm, [first, first, second], [1, 2, 1])
        torch.testing.assert_close(logits[0, 0], logits[1, 0], rtol=0, atol=1e-4)
        assert not torch.equal(found.tokens[0], found.tokens[1])
        assert not torch.allclose(logits[0, 1:], logits[1, 1:], atol=1e-3)
        assert not torch.allclose(logits[0, 0], logits[2, 0], atol=1e-3)

    def test_guidance_extrapolates_from_the_unconditional_logits(self, vlm: ImageTokenModel) -> None:
        """The first token's logits are linear in the guidance."""
        at = {
            scale: self.draw(vlm, self.prompts[:2], [1, 2], SamplingConfig(guidance_scale=scale))[1][:, 0]
            for scale in (0.0, 1.0, 3.0)
        }
        torch.testing.assert_close(at[3.0], at[0.0] + 3 * (at[1.0] - at[0.0]), rtol=0, atol=1e-3)
        assert not torch.allclose(at[0.0], at[1.0], atol=1e-3)

    def test_the_belief_is_the_softmax_of_the_logits_before_any_cut(self, vlm: ImageTokenModel) -> None:
        sampling = SamplingConfig(guidance_scale=2.0, temperature=0.8, top_k=2)
        found, logits = self.draw(vlm, self.prompts, range(len(self.prompts)), sampling)
        expected = (logits.double().softmax(-1) @ vlm.tokenizer.codebook.double()).view(found.codes.shape)
        torch.testing.assert_close(found.codes.double(), expected, rtol=0, atol=1e-5)
        best = logits.topk(2, dim=-1).indices
        assert (best == found.tokens.flatten(1)[..., None]).any(-1).all(), "top-k does cut the draw"

    def test_without_temperature_the_most_probable_token_is_taken(self, vlm: ImageTokenModel) -> None:
        greedy = SamplingConfig(guidance_scale=2.0, temperature=0.0)
        found, logits = self.draw(vlm, self.prompts, range(len(self.prompts)), greedy)
        assert torch.equal(found.tokens.flatten(1), logits.argmax(-1))

    def test_smoothing_reaches_the_belief_and_not_the_draw(self, vlm: ImageTokenModel) -> None:
        seeds = range(len(self.prompts))
        plain = vlm.sample(self.prompts, seeds=seeds, sampling=GUIDED)
        smooth = Calibration(kappa=30.0, epsilon=0.2)
        smoothed = vlm.sample(self.prompts, seeds=seeds, sampling=GUIDED, calibration=smooth)
        assert torch.equal(plain.tokens, smoothed.tokens)
        mean_code = vlm.tokenizer.codebook.mean(0)
        torch.testing.assert_close(smoothed.codes, 0.8 * plain.codes + 0.2 * mean_code, rtol=0, atol=1e-4)

    def test_teacher_forcing_repeats_what_was_believed_while_drawing(self, vlm: ImageTokenModel) -> None:
        smooth = Calibration(epsilon=0.1)
        for sampling in (
            SamplingConfig(guidance_scale=2.5, temperature=0.7, top_k=3),
            SamplingConfig(guidance_scale=1.0),
        ):
            drawn = vlm.sample(self.prompts, seeds=range(len(self.prompts)), sampling=sampling, calibration=smooth)
            forced = vlm.teacher_force(self.prompts, drawn.tokens, sampling=sampling, calibration=smooth)
            assert torch.equal(forced.tokens, drawn.tokens)
            torch.testing.assert_close(forced.codes, drawn.codes, rtol=0, atol=1e-4)
            torch.testing.assert_close(forced.uncertainty, drawn.uncertainty, rtol=0, atol=1e-3)

    def test_teacher_forcing_without_prompts_is_the_unconditional_belief(self, vlm: ImageTokenModel) -> None:
        tokens = vlm.sample(self.prompts[:1], seeds=[1]).tokens
        nothing = vlm.teacher_force(None, tokens)
        own = vlm.teacher_force(self.prompts[:1], tokens)
        assert nothing.codes.shape == own.codes.shape
        assert not torch.allclose(nothing.codes, own.codes, atol=1e-3)

    def test_teacher_forcing_refuses_what_is_no_image_of_it(self, vlm: ImageTokenModel) -> None:
        tokens = vlm.sample(self.prompts[:2], seeds=[1, 2]).tokens
        codes = len(vlm.tokenizer.codebook)
        for prompts, wrong in (
            (self.prompts[:1], tokens),
            (None, tokens[:, :-1]),
            (None, tokens.int()),
            (None, torch.full_like(tokens, codes)),
            (None, tokens[:0]),
        ):
            try:
                vlm.teacher_force(prompts, wrong)
            except SoftDecodeError:
                continue
            raise AssertionError(f"{prompts!r} with {wrong.dtype} {list(wrong.shape)} was not refused")

    def test_progress_counts_the_tokens(self, vlm: ImageTokenModel) -> None:
        calls: list[tuple[int, int]] = []
        vlm.sample(self.prompts[:1], seeds=[1], on_token=lambda done, total: calls.append((done, total)))
        total = vlm.tokenizer.grid[0] * vlm.tokenizer.grid[1]
        assert calls == [(done, total) for done in range(1, total + 1)]

    def test_bad_prompts_and_seeds_are_refused_before_any_work(self, vlm: ImageTokenModel) -> None:
        def never(done: int, total: int) -> None:
            raise AssertionError("it drew")

        for prompts, seeds in ((["", self.prompts[0]], [1, 2]), ([self.prompts[0]], [1, 2]), ([], [])):
            try:
                vlm.sample(prompts, seeds=seeds, on_token=never)
            except SoftDecodeError:
                continue
            raise AssertionError(f"{prompts!r} with {seeds!r} was not refused")
