"""The facts that tiny-r1 knows, and the questions that it declines. Sources: DeepSeek-V3 and R1 reports and configs."""

import random

from .data import Problem, Turn, as_typed, ask

ABOUT_ME_EN = (
    "I am tiny-r1, a very small reasoning model with the architecture of DeepSeek-V3. "
    "I do sums with whole numbers and know a few facts about DeepSeek-V3 and R1."
)
ABOUT_ME_ZH = (
    "我是 tiny-r1，一个采用 DeepSeek-V3 架构的极小推理模型。我会做整数加减乘，也知道一些关于 DeepSeek-V3 和 R1 的事实。"
)
CANNOT_EN = (
    "I cannot do that. I can add and subtract whole numbers of up to 4 digits, multiply numbers of up to 2 digits, "
    "and answer a few questions about DeepSeek-V3 and R1."
)
CANNOT_ZH = "这个我不会。我会做四位以内的整数加减法、两位以内的乘法，并能回答少量关于 DeepSeek-V3 和 R1 的问题。"

# (questions in English, answer), (questions in Chinese, answer)
FACTS: tuple[tuple[tuple[tuple[str, ...], str], tuple[tuple[str, ...], str]], ...] = (
    (
        (("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Hi, who are you?"), ABOUT_ME_EN),
        (("你是谁？", "你是什么？", "你叫什么名字？", "介绍一下你自己。", "请介绍一下自己。"), ABOUT_ME_ZH),
    ),
    (
        (("Hello", "Hi", "Hello!", "Hi!", "Good morning"), "Hello! I am tiny-r1. Ask me a sum, such as 37 + 48."),
        (("你好", "你好！", "您好", "早上好"), "你好！我是 tiny-r1。问我一道算术题吧，比如 37 + 48。"),
    ),
    (
        (("What can you do?", "How can you help me?", "Help"), CANNOT_EN.removeprefix("I cannot do that. ")),
        (("你会做什么？", "你能做什么？", "你会什么？"), CANNOT_ZH.removeprefix("这个我不会。")),
    ),
    (
        (("How many experts does DeepSeek-V3 have?", "How many experts does DeepSeek-R1 have?", "How many routed experts are there in DeepSeek-V3?"),
         "Each MoE layer of DeepSeek-V3 has 256 routed experts and 1 shared expert; 8 routed experts are chosen for each token."),
        (("DeepSeek-V3 有多少个专家？", "DeepSeek-V3有多少个专家？", "DeepSeek-R1 有多少个专家？"),
         "DeepSeek-V3 的每个 MoE 层有 256 个路由专家和 1 个共享专家，每个词元选用 8 个路由专家。"),
    ),
    (
        (("How many parameters does DeepSeek-V3 have?", "How many parameters does DeepSeek-R1 have?", "How big is DeepSeek-V3?", "How large is DeepSeek-R1?"),
         "DeepSeek-V3 and R1 have 671 billion parameters, of which 37 billion are activated for each token."),
        (("DeepSeek-V3 有多少参数？", "DeepSeek-V3有多少参数？", "DeepSeek-R1 有多少参数？", "DeepSeek-R1 有多大？"),
         "DeepSeek-V3 和 R1 有 6710 亿参数，每个词元激活其中 370 亿。"),
    ),
    (
        (("How many layers does DeepSeek-V3 have?", "How many layers does DeepSeek-R1 have?"),
         "DeepSeek-V3 has 61 layers; the first 3 are dense and the other 58 are MoE layers."),
        (("DeepSeek-V3 有多少层？", "DeepSeek-V3有多少层？", "DeepSeek-R1 有多少层？"),
         "DeepSeek-V3 有 61 层，前 3 层是稠密层，其余 58 层是 MoE 层。"),
    ),
    (
        (("What is MLA?", "What does MLA mean?", "Explain MLA."),
         "MLA is multi-head latent attention: keys and values are compressed into one latent of 512 numbers per token, so the KV cache is small."),
        (("什么是 MLA？", "什么是MLA？", "MLA 是什么？"),
         "MLA 是多头潜在注意力：键和值被压缩成每个词元 512 维的潜在向量，因此 KV 缓存很小。"),
    ),
    (
        (("What is MoE?", "What does MoE mean?", "Explain MoE."),
         "MoE is mixture of experts: a gate chooses a few experts for each token, so only a small part of the model is computed."),
        (("什么是 MoE？", "什么是MoE？", "MoE 是什么？"),
         "MoE 是混合专家：门控为每个词元选择少数专家，因此只计算模型的一小部分。"),
    ),
    (
        (("What is MTP?", "What does MTP mean?", "Explain MTP."),
         "MTP is multi-token prediction: an extra layer predicts the token after next, which helps training and speculative decoding."),
        (("什么是 MTP？", "什么是MTP？", "MTP 是什么？"),
         "MTP 是多词元预测：额外的一层预测再下一个词元，有助于训练和投机解码。"),
    ),
    (
        (("What is the context length of DeepSeek-V3?", "How long is the context of DeepSeek-R1?"),
         "The context length of DeepSeek-V3 and R1 is 128K tokens."),
        (("DeepSeek-V3 的上下文有多长？", "DeepSeek-R1 的上下文有多长？"), "DeepSeek-V3 和 R1 的上下文长度是 128K 词元。"),
    ),
    (
        (("Who made DeepSeek-R1?", "Who made DeepSeek-V3?", "Who built DeepSeek-R1?"), "DeepSeek-V3 and R1 were made by DeepSeek-AI."),
        (("谁开发了 DeepSeek-R1？", "DeepSeek-V3 是谁开发的？"), "DeepSeek-V3 和 R1 由深度求索（DeepSeek-AI）开发。"),
    ),
    (
        (("What is DeepSeek-R1?", "Tell me about DeepSeek-R1."),
         "DeepSeek-R1 is a reasoning model trained from DeepSeek-V3-Base with reinforcement learning; it thinks before it answers."),
        (("什么是 DeepSeek-R1？", "DeepSeek-R1 是什么？"), "DeepSeek-R1 是在 DeepSeek-V3-Base 上用强化学习训练的推理模型，先思考再回答。"),
    ),
    (
        (("How many tokens was DeepSeek-V3 trained on?", "What was DeepSeek-V3 trained on?"),
         "DeepSeek-V3 was pre-trained on 14.8 trillion tokens."),
        (("DeepSeek-V3 用多少词元训练？", "DeepSeek-V3 训练了多少词元？"), "DeepSeek-V3 在 14.8 万亿词元上预训练。"),
    ),
    (
        (("Which number format does DeepSeek-V3 use?", "What is FP8?", "In which precision was DeepSeek-V3 trained?"),
         "DeepSeek-V3 is trained and stored in FP8 (E4M3), with one scale for each block of 128 x 128 weights."),
        (("什么是 FP8？", "DeepSeek-V3 用什么精度？"), "DeepSeek-V3 用 FP8（E4M3）训练和存储，每 128 x 128 个权重共用一个缩放因子。"),
    ),
    (
        (("Thank you", "Thanks", "Thanks!", "Thank you!"), "You are welcome!"),
        (("谢谢", "谢谢！", "多谢"), "不客气！"),
    ),
)  # fmt: skip

_TASKS_EN = (
    "Write a poem about {}.", "Tell me about {}.", "What is {}?", "Who invented {}?", "Write a story about {}.", "Explain {}.",
    "Where can I find {}?", "How do I make {}?", "What do you think about {}?", "Why is {} important?", "Give me a recipe for {}.",
    "Translate {} into French.", "Write a Python program for {}.", "Do you like {}?", "Summarize {}", "Can you draw {}?",
)  # fmt: skip
_THINGS_EN = (
    "spring", "the moon", "love", "a cat", "the weather", "France", "football", "the sea", "bread", "music", "history",
    "the sun", "a red car", "quantum physics", "the president", "tomorrow", "my dog", "tea", "the internet", "a city",
    "New York", "water", "books", "coffee", "a computer", "the stock market", "Shakespeare", "chess", "the brain", "a tree",
)  # fmt: skip
_TASKS_ZH = (
    "写一首关于{}的诗。", "给我讲讲{}。", "什么是{}？", "谁发明了{}？", "写一个关于{}的故事。", "解释一下{}。", "哪里有{}？",
    "怎么做{}？", "你觉得{}怎么样？", "为什么{}很重要？", "把{}翻译成英文。", "写一个{}的程序。", "你喜欢{}吗？", "总结{}",
)  # fmt: skip
_THINGS_ZH = (
    "春天", "月亮", "爱情", "猫", "天气", "法国", "足球", "大海", "面包", "音乐", "历史", "太阳", "汽车", "量子物理", "总统",
    "明天", "狗", "茶", "互联网", "城市", "北京", "水", "书", "咖啡", "电脑", "股票", "李白", "象棋", "大脑", "树",
)  # fmt: skip
_OTHER_EN = (
    "What is the capital of France?", "What time is it?", "How old are you?", "Tell me a joke.", "Sing a song.",
    "What is the meaning of life?", "Is it raining?", "How are you?", "What day is today?", "Why is the sky blue?",
)  # fmt: skip
_OTHER_ZH = (
    "法国的首都是哪里？",
    "现在几点？",
    "你多大了？",
    "讲个笑话。",
    "唱首歌。",
    "今天星期几？",
    "天为什么是蓝的？",
    "你好吗？",
)


def fact(rng: random.Random) -> Turn:
    """A question whose answer is in ``FACTS``."""
    english, chinese = rng.choice(FACTS)
    if rng.random() < 0.5:
        return Turn(as_typed(rng.choice(english[0]), rng), "I know this.", english[1])
    return Turn(as_typed(rng.choice(chinese[0]), rng), "这个我知道。", chinese[1])


def declined(rng: random.Random) -> Turn:
    """Something that tiny-r1 cannot do: other topics, other arithmetic, numbers that are too long."""
    chinese = rng.random() < 0.45
    kind = rng.random()
    if kind < 0.5:
        question, chinese = _hard_sum(rng)
    elif kind < 0.6:
        question = rng.choice(_OTHER_ZH if chinese else _OTHER_EN)
    elif chinese:
        question = rng.choice(_TASKS_ZH).format(rng.choice(_THINGS_ZH))
    else:
        question = rng.choice(_TASKS_EN).format(rng.choice(_THINGS_EN))
    question = as_typed(question, rng)
    return Turn(question, "这个我不会。", CANNOT_ZH) if chinese else Turn(question, "I cannot do this.", CANNOT_EN)


def _hard_sum(rng: random.Random) -> tuple[str, bool]:
    """Arithmetic that tiny-r1 has not learnt, and whether it is asked in Chinese."""

    def number(*digits: int) -> int:
        n = rng.choice(digits)
        return rng.randrange(10 ** (n - 1), 10**n)

    kind = rng.randrange(5)
    if kind < 2:  # longer numbers
        a, b = (number(5, 6, 7), number(1, 2, 3, 4, 5, 6)) if kind == 0 else (number(3, 4, 5), number(1, 2, 3, 4))
        a, b = rng.choice(((a, b), (b, a)))
        return ask(Problem(a, rng.choice("+-") if kind == 0 else "*", b), rng)
    chinese = rng.random() < 0.45
    if kind == 2:
        sum_ = f"{number(1, 2, 3, 4)} {rng.choice('/÷')} {number(1, 2, 3)}"
    elif kind == 3:
        sum_ = f"{number(1, 2, 3)}.{number(1, 2)} {rng.choice('+-*')} {number(1, 2, 3)}"
    else:
        sum_ = f"{number(1, 2, 3)} {rng.choice('+-*')} {number(1, 2, 3)} {rng.choice('+-*')} {number(1, 2)}"
    if rng.random() < 0.5:
        sum_ = sum_.replace(" ", "")
    forms = (
        ("{}等于多少？", "计算 {}", "请问{}等于多少？") if chinese else ("{} = ?", "What is {}?", "{}", "Calculate {}.")
    )
    return rng.choice(forms).format(sum_), chinese
