"""The lab pair's text: splits, problems that are right, chats cut where they should be, tokens that come back."""

import ast
import random
import re
import zipfile
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark_lab.train import corpus, sources, tokenizer
from dspark_lab.train.corpus import DOMAINS, Chat, Document, chats, documents
from dspark_lab.train.problems import TEMPLATES, WORDS, draw_words, problems, work

CONTEXT = 256


@pytest.fixture(scope="module")
def docs():
    return documents(None, tiny=True)


@pytest.fixture(scope="module")
def talks(docs):
    return chats(docs, train_problems=300, heldout_problems=60)


@pytest.fixture(scope="module")
def bpe(docs):
    return tokenizer.train_tokenizer(docs)


def of(domain, items, heldout=False):
    return [item for item in items if item.domain == domain and item.heldout == heldout]


# --- Splits ------------------------------------------------------------------------------------------------


def test_every_domain_has_both_splits_and_no_text_is_in_two(docs):
    for domain in DOMAINS:
        train, held = of(domain, docs), of(domain, docs, True)
        assert train and held
        assert not {doc.text for doc in train} & {doc.text for doc in held}
    assert len({(doc.domain, doc.name) for doc in docs}) == len(docs)


def test_the_split_depends_on_the_name_alone():
    assert corpus.is_heldout("stdlib/bisect.py") == corpus.is_heldout("stdlib/bisect.py")
    held = [name for name in map(str, range(5000)) if corpus.is_heldout(name)]
    assert 400 < len(held) < 600  # a tenth; more than 4 standard deviations either way
    texts = [(f"{n}", f"text number {n} " * 40) for n in range(200)]
    split = {doc.name: doc.heldout for doc in corpus._distinct("prose", texts)}
    assert split == {doc.name: doc.heldout for doc in corpus._distinct("prose", texts[::-1])}
    assert len(split) == 200


def test_prose_and_code_of_one_module_are_held_out_together(docs):
    assert all(doc.heldout == corpus.is_heldout(doc.name) for doc in docs if doc.domain != "math")


def test_a_text_that_occurs_twice_stays_in_train_alone():
    names = [str(n) for n in range(50)]
    held = next(name for name in names if corpus.is_heldout(name))
    kept = next(name for name in names if not corpus.is_heldout(name))
    [doc] = corpus._distinct("prose", [(held, "the same words " * 30), (kept, "the same, words " * 30)])
    assert (doc.name, doc.heldout) == (kept, False)


def test_the_corpus_is_the_same_twice(docs, talks):
    assert documents(None, tiny=True) == docs
    assert chats(docs, train_problems=300, heldout_problems=60) == talks


# --- Problems ----------------------------------------------------------------------------------------------

EQUATION = re.compile(
    r"(\d+) (\+|-|\*|x|/|plus|minus|times|divided by) (\d+) (?:=|is) (\d+)(?: remainder (\d+))?(?=[.,:])"
)


@pytest.mark.parametrize("heldout", [False, True])
def test_every_equation_is_right(heldout):
    for worked in problems(3000, 5, heldout):
        equations = EQUATION.findall(worked.answer)
        steps = next(template.steps for template in TEMPLATES if template.name == worked.template)
        assert len(equations) - len(steps) in (0, 1)  # the check at the end is one more
        for left, sign, right, result, remainder in equations:
            a, b, c = int(left), int(right), int(result)
            if sign in ("/", "divided by"):
                assert a == b * c + int(remainder or 0)
            else:
                assert c == {"+": a + b, "p": a + b, "-": a - b, "m": a - b}.get(sign[0], a * b)
        assert len(re.findall(r"\d+", worked.answer)) >= 3 * len(equations)


@pytest.mark.parametrize("heldout", [False, True])
def test_answers_end_on_the_result_and_numbers_stay_small(heldout):
    for worked in problems(3000, 6, heldout):
        assert str(worked.result) in re.findall(r"\d+", worked.answer.splitlines()[-1].split(". ")[-1])
        assert 0 < worked.result < 1000
        assert not re.search(r"[{}|]", worked.problem + worked.answer)


def asked(name, count=60):
    """Problems of one template: the numbers of their text, and the result."""
    template, rng = next(template for template in TEMPLATES if template.name == name), random.Random(8)
    many = [work(template, rng) for _ in range(count)]
    return [([int(number) for number in re.findall(r"\d+", worked.problem)], worked.result) for worked in many]


def test_results_answer_the_question_that_the_text_asks():
    assert all(a * p + b * q == w for (a, p, b, q), w in asked("buy_two"))
    assert all(t % n == w for (t, n), w in asked("pack_rest"))
    assert all(-(-t // n) == w for (t, n), w in asked("pack_boxes"))
    assert all(t * (100 - p) == 100 * w for (t, p), w in asked("percent_off"))
    assert all(k * w + a == b for (k, a, b), w in asked("equation_mul"))
    assert all(b + p * d == w for (b, p, d), w in asked("taxi"))
    assert all((t - s) == n * w for (t, s, n), w in asked("baker"))
    assert all(a * b + k - j == w for (a, b, k, j), w in asked("boxes-find-give-ask"))
    assert all((s - j + k) == p * w for (s, j, k, p), w in asked("have-lose-buy-share"))
    assert all((a + b - k) * p == w for (a, b, k, p), w in asked("two-sell-price"))


def test_templates_are_many_and_the_held_out_ones_stay_out(docs, talks):
    train = {template.name for template in TEMPLATES if not template.heldout}
    held = {template.name for template in TEMPLATES if template.heldout}
    assert len(train) >= 40 and len(held) >= 8 and not train & held
    for texts, heldout, templates in (
        (docs, False, train),
        (talks, False, train),
        (docs, True, held),
        (talks, True, held),
    ):
        used = {text.name.split("/")[1] for text in of("math", texts, heldout)}
        assert used <= templates and len(used) > min(40, len(templates) // 2)


def test_people_differ_and_the_pronoun_is_the_first_one_s():
    for seed in range(200):
        words = draw_words(random.Random(seed))
        assert words["A"] != words["B"] and words["item"] != words["other"]
        assert (words["he"], words["his"]) == (("he", "his") if words["A"] in WORDS["man"] else ("she", "her"))


@pytest.mark.parametrize("heldout", [False, True])
def test_a_perfect_model_of_the_answers_stays_uncertain(bpe, heldout):
    many = problems(1000, 7, heldout)
    tokens = sum(len(bpe.encode(worked.answer).ids) + 1 for worked in many)
    assert 1.08 < 2 ** (sum(worked.bits for worked in many) / tokens) < 1.3


# --- Chats -------------------------------------------------------------------------------------------------


def test_continuations_follow_their_passage_without_overlap():
    lines = [f"Sentence {'word ' * (n % 17 + 4)}closes the thought of Mr. Number{'x' * n} here." for n in range(200)]
    doc = Document("prose", "book/one", " ".join(lines), False)
    talks = corpus.continuations(doc, random.Random(0))
    assert len(talks) > 10
    end = 0
    for chat in talks:
        at = doc.text.index(chat.response)
        assert at >= end and chat.response.endswith("here.") and chat.response.startswith("Sentence")
        assert 60 <= len(chat.response.split()) <= 130
        end = at + len(chat.response)
        passage = max((part for part in chat.prompt.split("\n\n")), key=len).removeprefix("Continue this passage: ")
        assert 30 <= len(passage.split()) <= 80
        assert doc.text[:at].rstrip().endswith(passage)


def test_sentences_do_not_end_at_a_title():
    parts = corpus.sentences('Mr. Starbuck said "No." Then J. F. Smith left! He did. It cost 3.50 dollars.')
    assert parts == ['Mr. Starbuck said "No." ', "Then J. F. Smith left! ", "He did. ", "It cost 3.50 dollars."]


def test_functions_are_whole_and_asked_for_by_name(talks):
    code = [chat for chat in talks if chat.domain == "code"]
    assert len(code) > 100
    for chat in code:
        [function] = ast.parse(chat.response).body
        assert f"`{function.name}(" in chat.prompt
        assert 120 <= len(chat.response) <= 660


def test_a_method_is_dedented_and_keeps_its_decorator_and_string():
    body = "\n".join(f"        self.value_{n} = self.value_{n} + {n}" for n in range(6))
    head = "    @property\n    def size(self):\n        '''Tell it. More.\n  odd\n        '''"
    text = f"x = '\x0c'\nclass Box:\n{head}\n{body}\n"
    [chat] = corpus.functions(Document("code", "m.py", text, False), random.Random(0))
    assert chat.response.startswith(
        "@property\ndef size(self):\n    '''Tell it. More.\n  odd\n    '''\n    self.value_0"
    )
    assert "`size(self)` of the class `Box`" in chat.prompt and "Tell it." in chat.prompt and "More" not in chat.prompt


def test_functions_that_differ_in_name_and_constants_alone_are_one():
    talks = [
        Chat("code", "s", "m", "p", source, False)
        for source in ("def a(x):\n    return x + 1", "def b(x):\n    return x + 2", "def c(x):\n    return x * 2")
    ]
    assert [chat.response[4] for chat in corpus.distinct_functions(talks)] == ["a", "c"]


def test_chatterbot_reads_dialogues_and_answers(tmp_path):
    talks = "conversations:\n- - Hello\n  - Hi\n  - How are you?\n"
    with zipfile.ZipFile(tmp_path / "chatterbot_corpus-1.3.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("chatterbot_corpus/data/english/conversations.yml", talks)
        wheel.writestr("chatterbot_corpus/data/english/trivia.yml", talks + "- a bare string\n")
        wheel.writestr("chatterbot_corpus/data/german/trivia.yml", talks)
    assert sources.chatterbot(tmp_path) == [
        ("chatterbot/conversations/hello", "Hello", "Hi"),
        ("chatterbot/conversations/hi", "Hi", "How are you?"),
        ("chatterbot/trivia/hello", "Hello", "Hi"),
        ("chatterbot/trivia/hello", "Hello", "How are you?"),
    ]


# --- Sources -----------------------------------------------------------------------------------------------


def test_prose_is_cleaned():
    raw = "CHAPTER 1. Loomings.\n\nCall me\r\nIshmael — “_Some_” years. [Laughter] snake_case\n\n-----\n\nTotal ..... 7"
    assert sources.clean_prose(raw) == 'Call me Ishmael — "Some" years. snake_case\n\nTotal 7'


def test_a_folder_stands_in_for_the_fetched_prose(tmp_path):
    words = "The quick brown fox saw the lazy dog and then it went away to the river. "
    book = "\n\n".join(f"Chapter talk {n}. " + words * 12 for n in range(400))
    (tmp_path / "book.txt").write_text(book)
    (tmp_path / "mine.py").write_text("def f():\n\treturn 1\n" * 20)
    (tmp_path / "broken.py").write_text("def f(:\n")
    prose, code = sources.folder_texts(tmp_path)
    assert [name for name, _ in code] == ["mine.py"] and "\t" not in code[0][1]
    assert "\n\n".join(text for _, text in prose) == sources.clean_prose(book)
    docs = documents(None, text_dir=tmp_path, tiny=True)
    assert {doc.name.split("/")[0] for doc in docs if doc.domain == "prose"} == {"book.txt"}


def test_bad_folders_and_missing_clients_are_told(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no"):
        documents(None, text_dir=tmp_path, tiny=True)
    (tmp_path / "short.txt").write_text("Too short a text. " * 30)
    with pytest.raises(ValueError, match="two splits"):
        documents(None, text_dir=tmp_path, tiny=True)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="--text-dir"):
        sources.npm_prose(tmp_path / "cache")


# --- Tokens ------------------------------------------------------------------------------------------------


def test_the_vocabulary_is_whole(bpe):
    assert bpe.get_vocab_size() == 4096
    assert [bpe.token_to_id(token) for token in tokenizer.SPECIAL] == [0, 1, 2, 3]
    digits = [token for token in bpe.get_vocab() if re.search(r"\d", token) and token not in tokenizer.SPECIAL]
    assert sorted(digits) == list("0123456789")
    assert len(bpe.encode("\n        ").ids) == 1  # indentation, as deep as every corpus has it often


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_text_comes_back_exactly(bpe, text):
    assert bpe.decode(bpe.encode(text).ids, skip_special_tokens=False) == text


def test_documents_come_back_exactly(bpe, docs):
    for doc in docs[::25]:
        assert bpe.decode(bpe.encode(doc.text).ids) == doc.text
    assert all(2 < ratio < 5 for ratio in tokenizer.bytes_per_token(docs, bpe).values())


def test_too_little_text_for_the_vocabulary_is_told():
    few = [Document(domain, domain, f"only this {domain}", False) for domain in DOMAINS]
    with pytest.raises(ValueError, match="4096"):
        tokenizer.train_tokenizer(few)


def test_transformers_and_mlx_lm_load_the_folder(bpe, tmp_path):
    from mlx_lm.tokenizer_utils import load

    tokenizer.save_tokenizer(bpe, tmp_path)
    wrapped = load(tmp_path)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say 12."}]
    rendered = wrapped.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == "<|im_start|>system\nBe brief.<|im_end|>\n" + tokenizer.chat_prompt("Say 12.")
    assert wrapped.encode("a 12\n    b", add_special_tokens=False) == bpe.encode("a 12\n    b").ids
    assert (wrapped.eos_token_id, wrapped.pad_token_id) == (
        bpe.token_to_id("<|im_end|>"),
        bpe.token_to_id("<|endoftext|>"),
    )
    assert len(wrapped) == 4096
    detokenizer = wrapped.detokenizer
    for token in bpe.encode("Voilà — 12\n    déjà").ids:
        detokenizer.add_token(token)
    detokenizer.finalize()
    assert detokenizer.text == "Voilà — 12\n    déjà"
    assert tokenizer.load_tokenizer(tmp_path).get_vocab() == bpe.get_vocab()


def test_packing_keeps_every_document_and_ends_each(bpe, docs):
    chosen = docs[:40] + of("math", docs)[:40]
    stream = tokenizer.pack(chosen, bpe, CONTEXT)
    assert stream.dtype == np.uint16 and stream.max() < 4096
    assert (stream == bpe.token_to_id(tokenizer.END)).sum() == len(chosen)
    assert len(stream) == sum(len(bpe.encode(doc.text).ids) + 1 for doc in chosen)
    short = [doc for doc in chosen if len(bpe.encode(doc.text).ids) < 4 * CONTEXT]
    text = bpe.decode(stream.tolist(), skip_special_tokens=False)
    assert short and all(doc.text + tokenizer.END in text for doc in short)
    assert (tokenizer.pack(chosen, bpe, CONTEXT) == stream).all()
    assert (tokenizer.pack(chosen, bpe, CONTEXT, seed=1) != stream).any()


def test_the_train_stream_holds_no_held_out_text(bpe, docs):
    arrays = tokenizer.pack_all(docs, bpe, CONTEXT)
    text = bpe.decode(arrays["train"].tolist())
    assert all(doc.text not in text for doc in docs if doc.heldout)
    assert all(doc.text in text for doc in of("math", docs)[:20])
    for domain in DOMAINS:
        held = bpe.decode(arrays[f"heldout_{domain}"].tolist())
        assert len(held.encode()) == arrays[f"heldout_{domain}_bytes"]


def test_encoded_chats_come_back(bpe, talks, tmp_path):
    np.savez(tmp_path / "chats.npz", **tokenizer.encode_chats(talks, bpe, 1024))
    arrays = np.load(tmp_path / "chats.npz")
    spans = list(pairwise(arrays["offsets"]))
    assert len(spans) == len(talks) == len(arrays["domains"])
    for index in range(0, len(talks), 17):
        chat, (start, end), cut = talks[index], spans[index], arrays["prompt_lengths"][index]
        ids = arrays["tokens"][start:end].tolist()
        assert bpe.decode(ids[:cut], skip_special_tokens=False) == tokenizer.chat_prompt(chat.prompt)
        assert bpe.decode(ids[cut:], skip_special_tokens=False) == chat.response + tokenizer.END
        assert DOMAINS[arrays["domains"][index]] == chat.domain and arrays["heldout"][index] == chat.heldout
        assert arrays["response_bytes"][index] == len(chat.response.encode())


def test_chats_past_the_context_are_left_out(bpe, talks):
    lengths = np.diff(tokenizer.encode_chats(talks, bpe, 10_000)["offsets"])
    limit = int(np.median(lengths))
    shorter = tokenizer.encode_chats(talks, bpe, limit)
    assert (np.diff(shorter["offsets"]) == lengths[lengths <= limit]).all()
