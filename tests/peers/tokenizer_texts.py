"""Texts that tokenizers are trained and compared on, and chat templates as published ones."""

# ruff: noqa: E501  the texts are a table

from typing import Any

TRAINING = [
    "The quick brown fox jumps over the lazy dog, and doesn't look back; they're 1,234.56 km away.",
    "It's the 3rd of May 2024, isn't it? We've been there. I'll say: \"Don't!\" (He'd said it.)",
    "def attention(query, key, value):\n    scores = query @ key.T\n\n    return scores / 8\n",
    "O preço é de vinte e um reais; não há nada melhor do que café com açúcar em São Paulo.",
    "Größe, Maß und Übermut: die Straße führt über die Brücke, Ärger gibt es auch öfter.",
    "Ils étaient déjà là, près du château, où l'été s'achève; ça va? Noël à l'île.",
    "日本語の文章です。東京は大きい。中文字符也在这里。한국어 문장입니다.",
    "Привет, мир! Это короткое предложение. Γειά σου Κόσμε. שלום עולם مرحبا بالعالم",
    "user assistant system: You are a helpful assistant. What is the capital of France? Paris.",
] * 4

HARD = [
    *("", " ", "  ", "\n", "\n\n", "\n\n\n", "\t", " \n ", "\r\n", "\r", "a", " a", "a ", " a "),
    *("hello world", "Hello  World", "hello   world", " hello", "hello ", "   leading and trailing   "),
    *("a\nb", "a\n\nb", "a\n\n\nb", "a \n b", "a\n b", "a\n\n  b", "\n\na", "a\n\n", "x\r\n\r\ny"),
    "def f(x):\n    if x:\n        return 1\n\n    return 2\n",
    "\tone tab\t\ttwo tabs",
    "for i in range(10):\n\tprint(i)  # comment\n",
    *("1", "12", "123", "1234", "12345", "1234567890", "3.14159", "1,234,567.89", "x1y22z333", "2024-05-03"),
    *("can't", "I'm we're they've he'd she'll it's DON'T I'M", "'s 't 're", "rock 'n' roll", "l'été"),
    *("café", "cafe\u0301", "naïve Ångström Ünïcödé", "ÉCOLE ÇA", "İstanbul ıI", "ß ẞ ſ", "ﬁ ﬂ ½ ² ™"),
    *("日本語", "東京都 大きい", "中文字符，标点。", "한국어", "㍿ ｆｕｌｌ　ｗｉｄｔｈ", "日本a語1 b"),
    *("Привет, мир!", "Γειά σου", "שלום", "مرحبا بالعالم", "ไทย", "हिन्दी", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢"),
    *("😀", "hi 😀😀!", "👩‍👩‍👧‍👦 family", "🇫🇷", "❤️", "a😀b", "☃ ★ → ≠"),
    *("a\u00a0b", "a\u2003b", "a\u200bb", "a\u200db", "\ufeffa", "a\u2028b", "a\u3000b", "a\u0085b"),
    *("a\x00b", "a\x01b", "a\x7fb", "a\x1bb", "a\x0cb", "a\x0bb", "\ufffd", "a\ufffdb", "\u2581a ▁ b"),
    *("...", "!!!???", "a.b.c", "--- *** ===", "(a) [b] {c} <d>", "\"q\" 'q' `q`", "@user #tag $5 50%"),
    *("http://example.com/a?b=c&d=e#f", "me@example.com", "C:\\path\\file.txt", "a_b__c", "CamelCaseWord"),
    *("</s>", "<s>", "<s>a</s>", "<pad>", "<unk>", "a <unk> b", "<mask>", "a <mask> b", "a<mask>b", "a  <mask>  b"),
    *("[MASK]", "a [MASK] b.", "[CLS] a [SEP]", "[UNK][PAD]", "[mask]", "<extra_id_0>", "a<extra_id_1> b", "<extra_id_7>x"),
    *("<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|im_start|>user\nhi<|im_end|>\n", "<think>\nx\n</think>"),
    *("<|begin_of_text|>a", "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", "<bos>a<eos>", "<start_of_turn>user\nhi<end_of_turn>"),
    *("[NEW] tok", "a[NEW]b", "  [NEW]  ", "new_word", "a new_word b", "newword", "NEW_WORD", "<0x0A>", "<0x41>b", "__en__a __de__", ">>fra<< a", "a >>fra<<"),
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The quick brown fox jumps over the lazy dog, and doesn't look back.\n\nWhat is the capital of France?",
]  # fmt: skip

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "You are a helpful assistant.\n"},
        {"role": "user", "content": "  What is the capital of <France> & co? é 日本\n\n"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "Why?"},
    ],
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds é <b> 'x' & \"y\""}}]

LLAMA_3_TEMPLATE = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{%- if system_message or tools is not none %}
    {{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
    {%- if tools is not none %}
        {%- for t in tools %}
            {{- t | tojson(indent=4) }}
            {{- "\\n\\n" }}
        {%- endfor %}
    {%- endif %}
    {{- system_message }}
    {{- "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception("the role " + message.role + " is not allowed") }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
CHATML_TEMPLATE = """{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
<|im_start|>system
You are a helpful assistant<|im_end|>
    {% endif %}
    {% if message.role == 'skip' %}{% continue %}{% endif %}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}

{% endif %}
"""
COHERE_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% set preamble = messages[0]['content'] %}{% elif false == true %}{% set turns = messages %}"
    "{% set preamble = 'none' %}{% else %}{% set turns = messages %}{% set preamble = false %}"
    "{% endif %}{% if preamble != false %}{{ '<|START_OF_TURN_TOKEN|>' + preamble | trim }}"
    "{% endif %}{% for m in turns %}{% set content = m['content'] %}{% if m['role'] == 'user' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% elif m['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + "
    "content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
LLAMA_2_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
