#!/usr/bin/env python3
"""Writes what the Python packages `tokenizers` and `sentencepiece` make of some thousands of strings, for tests/tokenizer.

usage: make_reference.py TOKENIZER.json TOKENIZER.model OUT.jsonl

Each line is {"text", "ids"}, and where they differ "decoded", what decoding the ids gives instead of the text, and "model_ids", the ids of
sentencepiece, which takes the longest of pieces like runs of spaces where tokenizers merges equal halves. Control tokens in a text
are themselves for both, as Transformers has it: sentencepiece is given what is between them. The strings are made here, the same each time: sentences in many scripts, code, emoji, whitespace, control characters, what looks like special tokens, random characters of
many blocks, and random mixtures of all that.
"""

import json
import random
import re
import sys

import sentencepiece
import tokenizers

SENTENCES = """
Valencia and Málaga are
The quick brown fox jumps over the lazy dog.
Wo ist denn hier der nächste Bahnhof? Größe, Übermut, Fußgängerübergangsschilder.
Où est la bibliothèque ? « C’est l’été », dit-elle, naïve.
¿Dónde está mañana el niño? ¡Qué pingüino!
Onde fica a estação? Não há pão, só maçãs.
Dov'è la città più bella? È lì.
Hvor er rødgrød med fløde? Ærlig talt, gå på!
Gdzie jest źdźbło trawy? Zażółć gęślą jaźń.
Kde je nejbližší nádraží? Příliš žluťoučký kůň.
Hol van az árvíztűrő tükörfúrógép?
Nerede İstanbul'un ığdır çayı? Şişli'de güneş.
Unde este gara? Șapte țări și o pâine.
Kur ir dzelzceļa stacija? Glāžšķūņa rūķīši.
Hvar er lestarstöðin? Þórður á ævi ðu.
Nasaan ang pinakamalapit na istasyon?
Ga nào gần nhất ở đâu? Tiếng Việt có dấu thanh.
Где ближайший вокзал? Съешь ещё этих мягких французских булок.
Де найближчий вокзал? Їжак і ґанок.
Къде е най-близката гара? Жълтата дюля.
Πού είναι ο σταθμός; Ξεσκεπάζω την ψυχοφθόρα.
איפה התחנה הקרובה? שָׁלוֹם עוֹלָם
أين أقرب محطة؟ السَّلَامُ عَلَيْكُمْ ١٢٣
نزدیک‌ترین ایستگاه کجاست؟ ۱۲۳
قریب ترین اسٹیشن کہاں ہے؟
निकटतम स्टेशन कहाँ है? क्षत्रिय ज्ञान १२३
নিকটতম স্টেশন কোথায়? বাংলা ১২৩
அருகிலுள்ள நிலையம் எங்கே? தமிழ்
సమీప స్టేషన్ ఎక్కడ ఉంది? తెలుగు
ಹತ್ತಿರದ ನಿಲ್ದಾಣ ಎಲ್ಲಿದೆ? ಕನ್ನಡ
അടുത്തുള്ള സ്റ്റേഷൻ എവിടെയാണ്? മലയാളം
નજીકનું સ્ટેશન ક્યાં છે? ગુજરાતી
ਨਜ਼ਦੀਕੀ ਸਟੇਸ਼ਨ ਕਿੱਥੇ ਹੈ? ਪੰਜਾਬੀ
ආසන්නතම දුම්රිය ස්ථානය කොහිද?
สถานีที่ใกล้ที่สุดอยู่ที่ไหน ภาษาไทย ๑๒๓
ສະຖານີທີ່ໃກ້ທີ່ສຸດຢູ່ໃສ
အနီးဆုံးဘူတာရုံ ဘယ်မှာလဲ
ស្ថានីយ៍ដែលនៅជិតបំផុតនៅឯណា
ས་ཚིགས་ཉེ་ཤོས་ག་པར་ཡོད།
უახლოესი სადგური სად არის? ქართული
Որտե՞ղ է մոտակա կայարանը: Հայերեն
የቅርብ ጣቢያ የት ነው? አማርኛ
最近的车站在哪里？我能吞下玻璃而不伤身体。
最近的車站在哪裡？繁體中文，標點「符號」。
一番近い駅はどこですか？ カタカナ、ひらがな、漢字。ｶﾀｶﾅ ＡＢＣ
가장 가까운 역은 어디입니까? 한국어 가각갂
Хамгийн ойрын буудал хаана байна вэ? ᠮᠣᠩᠭᠣᠯ
ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᐃᓄᒃᑎᑐᑦ ᚠᚢᚦᚨᚱᚲ 𐌲𐌿𐍄𐌹𐍃𐌺
1234567890 3.14159 1,000,000.00 1e-10 0xDEADBEEF ½ ² ₃ Ⅷ ①
https://example.org/a/b?c=d&e=%20f#g user.name+tag@example.org
The price is €5, £4, ¥300, ₹20 or $6.50 — about 10‰ more…
a² + b² = c²; ∀x∈ℝ: ∃y ≤ √x ∧ ∫f dx ≈ ∞ ≠ ∅ ⇒ ∎
"Straight" 'quotes' “curly” ‘ones’ „low“ «guillemets» ‹single› `ticks`
UPPER lower Title camelCase snake_case kebab-case SCREAMING_SNAKE
antidisestablishmentarianism Donaudampfschifffahrtsgesellschaftskapitän
""".strip().splitlines()

CODE = [
    "def f(x):\n    return x ** 2\n",
    "for i in range(10):\n\tprint(i)\n\t\tif i % 2:\n\t\t\tcontinue\n",
    'fn main() {\n    println!("Hello, {}!", name);\n}\n',
    "impl<T: Clone + 'static> Foo<T> for Vec<&'a mut T> where T: Send {}",
    "#include <stdio.h>\nint main(void) { return !(x->y & 0xff) ? a[i++] : *p--; }",
    "SELECT a.*, COUNT(*) FROM t AS a WHERE a.x <> 'it''s' GROUP BY 1;",
    "<html><body><h1>Title</h1><p>Text<br/></p><table><tr><td>1</td></tr></table></body></html>",
    "<div class=\"a b\" id='c'>&nbsp;&lt;&amp;</div><!-- no --><strong>x</strong><code>y</code>",
    '{"key": [1, 2.5, null, true, "\\u00e9\\n"], "nested": {"a": {}}}',
    "key: value\nlist:\n  - a\n  - b:\n      c: d\n",
    "$ ls -la | grep '^d' | awk '{print $9}' > /tmp/out 2>&1 && echo \"$HOME\"\n",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n# Heading\n\n* item\n    * sub\n\n```rust\nlet x = 1;\n```\n",
    "\\begin{align} x &= \\frac{1}{2} \\\\ y &= \\sum_{i=0}^{n} x_i \\end{align}",
    "const f = async ({a, ...b}) => await Promise.all(b?.map(x => x ?? `${a}`));",
    "git commit -m 'Fix'\r\nwindows line\r\nends\r\n",
    "(define (fact n) (if (= n 0) 1 (* n (fact (- n 1)))))",
    "+++[>+++++<-]>. ;; @@ -1,3 +1,4 @@ !!! ??? *** --- ___ === <<< >>> ...",
]

EMOJI = [
    "😀", "😂🤣", "👍🏽", "👩‍💻", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🏴‍☠️", "🇩🇪🇫🇷", "🇺", "❤️‍🔥", "☀️", "☀", "1️⃣", "#️⃣", "🧑🏿‍🚀", "🫠", "🫡", "🪿", "🩷", "👁️‍🗨️",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🤷🏻‍♀️", "👩🏾‍❤️‍💋‍👨🏼", "⌚️", "™️", "🀄", "🃏", "🅰️", "㊗️", "‼️", "👩‍", "‍💻", "🏽", "\ufe0f",
]

SPECIALS = [
    "<bos>", "<eos>", "<pad>", "<mask>", "<2mass>", "[@BOS@]", "<unused0>", "<unused42>", "<unused98>", "<unused99>", "<start_of_turn>",
    "<end_of_turn>", "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<bos", "bos>", "< bos>", "<BOS>", "<Bos>", "<<bos>>",
    "<bos><bos>", "<bos> <bos>", " <bos>", "<bos> ", "a<bos>b", "a <eos> b", "<start_of_turn", "<start_of_turn >", "<start_of_turn>>",
    "<|endoftext|>", "[INST] x [/INST]", "</s>", "<s>", "<0x41>", "<0x0A>", "<0xFF>", "<0xff>", "<0xG0>", "▁", "▁▁", "▁a", "a▁b", " ▁ ", "<h1>",
    "</h1>", "<h7>", "<table>", "<td>a</td>", "<br>", "<u>x</u>", "<sub>2</sub>", "<unused", "unused1>", "<end_of_turn>\n", "<image_soft_token>",
]

CONTROLS = [chr(c) for c in range(0x20)] + [chr(c) for c in range(0x7F, 0xA1)] + [
    "\u00ad", "\u034f", "\u061c", "\u115f", "\u1680", "\u180e", "\u2000", "\u2003", "\u2009", "\u200a", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2028",
    "\u2029", "\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u202f", "\u205f", "\u2060", "\u2061", "\u2066", "\u2067", "\u2069", "\u3000", "\ufeff", "\ufff9", "\ufffc",
    "\ufffd", "\uffff", "\U000e0001", "\U000e0041", "\U0010ffff", "\ue000", "\U000f0000",
]

BLOCKS = [
    (0x20, 0x7E), (0xA1, 0xFF), (0x100, 0x24F), (0x250, 0x2AF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58A), (0x591, 0x5F4),
    (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7BF), (0x7C0, 0x7FA), (0x900, 0x97F), (0x980, 0x9FE), (0xA01, 0xA75), (0xA81, 0xAFF), (0xB01, 0xB77), (0xB82, 0xBFA),
    (0xC00, 0xC7F), (0xC80, 0xCF2), (0xD00, 0xD7F), (0xD81, 0xDF4), (0xE01, 0xE5B), (0xE81, 0xEDF), (0xF00, 0xFDA), (0x1000, 0x109F), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1200, 0x139F), (0x13A0, 0x13FD), (0x1400, 0x167F), (0x1680, 0x16F8), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1E00, 0x1FFE),
    (0x2010, 0x2027), (0x2030, 0x205E), (0x2070, 0x209C), (0x20A0, 0x20C0), (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x27BF), (0x2800, 0x28FF), (0x2900, 0x2BFF),
    (0x2C00, 0x2DFF), (0x2E80, 0x2FD5), (0x3001, 0x30FF), (0x3105, 0x33FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA4C6), (0xA4D0, 0xABF9), (0xAC00, 0xD7A3),
    (0xE000, 0xE0FF), (0xF900, 0xFAD9), (0xFB00, 0xFDFF), (0xFE20, 0xFE6F), (0xFE70, 0xFEFC), (0xFF01, 0xFFEE), (0x10000, 0x100FA), (0x10330, 0x1034A),
    (0x10400, 0x1047F), (0x10900, 0x1091F), (0x12000, 0x12399), (0x13000, 0x1342E), (0x16800, 0x16A38), (0x1D100, 0x1D1E8), (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F),
    (0x1F000, 0x1F0F5), (0x1F100, 0x1F265), (0x1F300, 0x1F64F), (0x1F680, 0x1F6FC), (0x1F700, 0x1F8FF), (0x1F900, 0x1FAFF), (0x20000, 0x2A6DF), (0x30000, 0x3134A),
]


def spaces(generator):
    """A run of white space of one kind, or a mixture."""
    kinds = [" ", "\t", "\n", "\r\n", "\u00a0", "\u3000"]
    if generator.random() < 0.7:
        return generator.choice(kinds[:3]) * generator.randint(1, 40)
    return "".join(generator.choice(kinds) for _ in range(generator.randint(1, 12)))


def characters(generator):
    """Some characters of one block."""
    first, last = generator.choice(BLOCKS)
    return "".join(chr(generator.randint(first, last)) for _ in range(generator.randint(1, 10)))


def part(generator):
    """A part of a mixture."""
    kind = generator.randrange(8)
    if kind == 0:
        words = generator.choice(SENTENCES).split(" ")
        start = generator.randrange(len(words))
        return " ".join(words[start : start + generator.randint(1, 5)])
    if kind == 1:
        code = generator.choice(CODE)
        start = generator.randrange(len(code))
        return code[start : start + generator.randint(1, 20)]
    if kind == 2:
        return generator.choice(EMOJI)
    if kind == 3:
        return generator.choice(SPECIALS)
    if kind == 4:
        return generator.choice(CONTROLS)
    if kind == 5:
        return spaces(generator)
    if kind == 6:
        return str(generator.randint(0, 10 ** generator.randint(1, 12)))
    return characters(generator)


def strings():
    """All strings, each once."""
    generator = random.Random(20240221)
    yield ""
    for text in SENTENCES + CODE + EMOJI + SPECIALS + CONTROLS:
        yield text
    for text in SENTENCES:
        yield " " + text.upper() + "  "
    for kind in (" ", "\t", "\n", "\r\n", "▁"):
        for count in list(range(1, 36)) + [63, 64, 65, 100]:
            yield kind * count
            yield "a" + kind * count + "b"
    for first, last in BLOCKS:
        for _ in range(4):
            yield "".join(chr(generator.randint(first, last)) for _ in range(generator.randint(1, 12)))
    for letter in "aA.-=!0é한":
        for count in (2, 3, 5, 8, 17, 50, 200):
            yield letter * count
    for _ in range(1400):
        yield "".join(part(generator) for _ in range(generator.randint(1, 5)))


def model_ids(model, text):
    """The ids of sentencepiece, `<bos>` in front and control tokens as themselves."""
    controls = {model.id_to_piece(id): id for id in range(4)}
    ids = [controls["<bos>"]]
    for piece in re.split("(" + "|".join(controls) + ")", text):
        ids += [controls[piece]] if piece in controls else model.encode(piece)
    return ids


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    model = sentencepiece.SentencePieceProcessor(model_file=sys.argv[2])
    lines = []
    for text in dict.fromkeys(strings()):
        line = {"text": text, "ids": tokenizer.encode(text).ids}
        decoded = tokenizer.decode(line["ids"])
        if decoded != text:
            line["decoded"] = decoded
        by_model = model_ids(model, text)
        if by_model != line["ids"]:
            line["model_ids"] = by_model
        lines.append(line)
    with open(sys.argv[3], "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n")
    differ = sum("model_ids" in line for line in lines)
    print(f"{sys.argv[3]}: {len(lines)} strings by tokenizers {tokenizers.__version__}; {differ} differ in sentencepiece {sentencepiece.__version__}")


if __name__ == "__main__":
    main()
