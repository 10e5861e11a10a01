"""Make questions about the demo model, and about GLM-130B and ChatGLM-6B (from their papers and README files)."""

# ruff: noqa: E501 - lists of words and wordings: a Chinese character counts as two columns, and a list
# of words reads best as text.

import random

from ..exchange import Exchange, Language, ask
from ..grammar import phrases

_LEAD_EN = "(|Tell me, |So |Hey, |May I ask, |Please, |I wonder, )"
_LEAD_ZH = "(|请问|那么|我想知道|请问一下，|告诉我，|嘿，)"

_WHO_EN = (
    "I am a small demo model of GLM, made to show that this program works. "
    "To talk to ChatGLM-6B, start the program with --model FOLDER."
)
_WHO_ZH = "我是一个小小的GLM演示模型，用来展示这个程序。想和ChatGLM-6B对话，请用 --model FOLDER 启动程序。"
_ABILITIES_EN = (
    "I can do small sums, count, name capitals, opposites, days and months, translate a few words, "
    "fill in blanks and remember your name."
)
_ABILITIES_ZH = "我会做简单的算术、数数，知道一些首都、反义词、日期和月份，会翻译一些词，会填空，还能记住你的名字。"

IDENTITY = {
    "en": (
        (phrases(f"{_LEAD_EN}(who are you|what are you|what is your name|what's your name|who is this|"
                 "who am I talking to|what should I call you|do you have a name|what kind of model are you|"
                 "what model are you|which model is this|which model are you)?",
                 "(Introduce yourself|Tell me about yourself|Tell me who you are|Describe yourself|Say who you are|"
                 "Please introduce yourself|Explain who you are|Tell me your name)."),
         (_WHO_EN,)),
        (phrases(f"{_LEAD_EN}are you (ChatGLM|ChatGLM-6B|ChatGPT|GPT|GPT-4|GLM-130B|a big model|a real assistant|"
                 "the real ChatGLM|the big model|as good as ChatGPT|an OpenAI model|the full model)?"),
         ("No, I am only a small demo model of GLM. To talk to ChatGLM-6B, start the program with --model FOLDER.",)),
        (phrases(f"{_LEAD_EN}are you (human|a human|a person|a real person|alive|real|a man|a woman|a robot|a machine|"
                 "a computer|an AI|a bot|conscious)?"),
         ("I am not a person, only a small computer program: a demo model of GLM.",)),
        (phrases(f"{_LEAD_EN}(who made you|who created you|who trained you|who built you|where do you come from|"
                 "how were you made|how were you trained|who wrote you|who is your maker|what were you trained on)?"),
         ("I was trained by the code of this project, on sentences that the project wrote itself.",)),
        (phrases(f"{_LEAD_EN}(what can you do|what do you know|what can I ask you|how can you help me|can you help me|"
                 "what are you able to do|what are your skills|what can I ask|what should I ask|what can you answer)?",
                 "(Help|Help me|I need help|I need your help|Show me what you can do|Tell me what you can do|"
                 "List your skills)(.| please.)"),
         (_ABILITIES_EN,)),
        (phrases(f"{_LEAD_EN}(how do I load|how can I load|how can I use|how do I use|how do I start|how do I run|"
                 "how can I run|how to load|how to use|can I load|can I use) (ChatGLM-6B|ChatGLM|a bigger model|"
                 "a better model|a real model|another model|the real model|my own model)?"),
         ("Download its folder and start the program with --model FOLDER.",)),
        (phrases(f"{_LEAD_EN}(how big are you|how many parameters do you have|how large are you|what is your size|"
                 "how small are you|are you big|are you small)?"),
         ("I am tiny: about five million parameters. GLM-130B has 130 billion.",)),
        (phrases(f"{_LEAD_EN}(what languages do you speak|which languages do you know|do you speak English|"
                 "do you speak Chinese|can you speak Chinese|do you understand Chinese|can you speak English|"
                 "what languages can you speak|which languages can you speak)?"),
         ("I speak a little English and a little Chinese.",)),
        (phrases(f"{_LEAD_EN}(how old are you|where do you live|when were you born|what is your age|where are you from|"
                 "where are you|what is your birthday|when is your birthday|what is your home)?"),
         ("I am only a program: I have no age and no home.",)),
    ),
    "zh": (
        (phrases(f"{_LEAD_ZH}(你是谁|你叫什么|你叫什么名字|你是什么|你是什么模型|你的名字是什么|你是哪个模型|你有名字吗|"
                 "该怎么称呼你|我在和谁说话|这是什么模型|你是什么人|您是谁|怎么称呼你)(|呢|呀|？)",
                 "(介绍一下你自己|介绍一下自己|自我介绍一下|说说你自己|请做个自我介绍|说说你是谁|讲讲你自己|请介绍你自己)(|。|吧。|好吗？)"),
         (_WHO_ZH,)),
        (phrases(f"{_LEAD_ZH}你是(ChatGLM|ChatGLM-6B|ChatGPT|GPT|GPT-4|GLM-130B|大模型|真正的助手|真的ChatGLM|"
                 "完整的模型|真正的大模型|OpenAI的模型)(吗|么)(|？)"),
         ("不是，我只是一个小小的GLM演示模型。想和ChatGLM-6B对话，请用 --model FOLDER 启动程序。",)),
        (phrases(f"{_LEAD_ZH}你是(人|人类|真人|活的|机器人|机器|电脑|人工智能|男的|女的|男生|女生|AI|程序)(吗|么)(|？)"),
         ("我不是人，只是一个小小的电脑程序：GLM的演示模型。",)),
        (phrases(f"{_LEAD_ZH}(谁做的你|谁创造了你|谁训练了你|你是谁做的|你是谁开发的|你从哪里来|你是怎么来的|"
                 "你是怎么训练的|谁开发了你|谁写的你|你是谁训练的|你的作者是谁|谁制造了你)(|？|呢？|的？)"),
         ("我是由这个项目自己的代码训练的，语料也是项目自己写的。",)),
        (phrases(f"{_LEAD_ZH}(你能做什么|你会做什么|你会什么|你能干什么|你有什么本领|你能帮我什么|我可以问你什么|"
                 "你可以做什么|你能回答什么|你知道什么|你有什么功能|你能帮我吗|你都会些什么)(|？|呢？|呀？)",
                 "(帮助|帮帮我|我需要帮助|帮我一下|请帮帮我|说说你会什么)(|。|！)"),
         (_ABILITIES_ZH,)),
        (phrases(f"{_LEAD_ZH}(怎么加载|如何加载|怎么使用|如何使用|怎么用|怎么启动|怎么运行|怎样加载|如何运行|能加载|能不能用)"
                 "(ChatGLM-6B|ChatGLM|更大的模型|更好的模型|真正的模型|别的模型|其他模型|自己的模型)(|？|呢？)"),
         ("先下载模型的文件夹，再用 --model FOLDER 启动程序。",)),
        (phrases(f"{_LEAD_ZH}(你有多大|你有多少参数|你的参数有多少|你多大|你的大小是多少|你是大模型还是小模型|你有几个参数)(|？|呢？)"),
         ("我很小，只有大约五百万个参数。GLM-130B有1300亿个参数。",)),
        (phrases(f"{_LEAD_ZH}(你会说什么语言|你会几种语言|你会说英语吗|你会说中文吗|你懂中文吗|你懂英语吗|你会哪些语言|"
                 "你能说中文吗|你能说英语吗|你会讲英文吗|你会讲中文吗)(|？|呢？)"),
         ("我会说一点中文和一点英语。",)),
        (phrases(f"{_LEAD_ZH}(你几岁了|你几岁|你住在哪里|你什么时候出生的|你是哪里人|你的年龄是多少|你在哪里|你的生日是哪天|你家在哪里)(|？|呢？)"),
         ("我只是一个程序，没有年龄，也没有家。",)),
    ),
}  # fmt: skip

_GLM = "(GLM-130B|GLM 130B|the GLM-130B model|the big GLM)"
_GLM_ZH = "(GLM-130B|GLM 130B|GLM-130B模型|大模型GLM-130B)"
GLM_FACTS = {
    "en": (
        (phrases(f"{_LEAD_EN}what is {_GLM}?", f"(Tell me about|Explain|Describe|Introduce|What do you know about) {_GLM}.",
                 f"(Have you heard of|Do you know) {_GLM}?"),
         "GLM-130B is an open bilingual language model (English and Chinese) with 130 billion parameters.",),
        (phrases(f"{_LEAD_EN}(how big is|how large is|what is the size of) {_GLM}?",
                 f"{_LEAD_EN}(how many parameters does {_GLM} have|how many parameters are in {_GLM})?".replace(_GLM, "GLM-130B"),
                 "(The number of parameters of|The size of) GLM-130B?"),
         "GLM-130B has 130 billion parameters.",),
        (phrases(f"{_LEAD_EN}(who made|who created|who trained|who built|who developed|who released|who is behind|"
                 "who are the authors of) GLM-130B?", "(Where does GLM-130B come from|Which university made GLM-130B)?"),
         "GLM-130B was made by the KEG group of Tsinghua University together with Zhipu AI.",),
        (phrases(f"{_LEAD_EN}(what|which) (languages|language) does GLM-130B (speak|know|support|understand)?",
                 "(Is GLM-130B bilingual|Does GLM-130B speak Chinese|Does GLM-130B know English)?"),
         "GLM-130B is bilingual: it knows English and Chinese.",),
        (phrases(f"{_LEAD_EN}when (was GLM-130B released|did GLM-130B come out|was GLM-130B published|was GLM-130B opened)?",
                 "(In which year|In what year) (was GLM-130B released|did GLM-130B come out)?", "How old is GLM-130B?"),
         "GLM-130B was released in August 2022.",),
        (phrases(f"{_LEAD_EN}how (many tokens|much text|much data|many words) was GLM-130B trained on?",
                 f"{_LEAD_EN}(how many tokens did GLM-130B see|what is the training data of GLM-130B|"
                 "what was GLM-130B trained on|how much data did GLM-130B see)?"),
         "GLM-130B was trained on over 400 billion tokens, half English and half Chinese.",),
        (phrases(f"{_LEAD_EN}(on what|on which) (hardware|machines|computers|GPUs) was GLM-130B trained?",
                 f"{_LEAD_EN}how (many GPUs|many machines|long) (did the training of GLM-130B take|did it take to train GLM-130B)?",
                 "How was GLM-130B trained?"),
         "GLM-130B was trained on 96 DGX-A100 machines for about 60 days.",),
        (phrases(f"{_LEAD_EN}(what|which) (hardware|GPUs|GPU|cards) (do I need for|do I need to run|can run|does one need for) GLM-130B?",
                 "(Can GLM-130B run on|Does GLM-130B fit on) (a single server|RTX 3090 cards|consumer GPUs|my GPU|small GPUs)?",
                 "(How do I run|Can I run) GLM-130B( at home| myself|)?"),
         "With INT4 weights GLM-130B runs on four RTX 3090 or eight RTX 2080 Ti cards.",),
        (phrases(f"{_LEAD_EN}(what is the training objective of|what is the objective of|what does the training of) GLM-130B( look like|)?",
                 f"{_LEAD_EN}(what is blank infilling|how does GLM learn|what is the objective of GLM|"
                 "what is autoregressive blank infilling|how does blank infilling work)?"),
         "GLM learns by blank infilling: it fills in spans of text that were cut out.",),
        (phrases(f"{_LEAD_EN}how many layers does GLM-130B have?", f"{_LEAD_EN}(what is|describe) the architecture of GLM-130B?",
                 "(How deep is|How is) GLM-130B( built|)?", "What does GLM-130B look like inside?"),
         "GLM-130B has 70 layers with a hidden size of 12288.",),
        (phrases(f"{_LEAD_EN}is GLM-130B (open|open source|free|public|available|downloadable)?",
                 "(Can I download|Where can I get|Can anybody use|How can I get) GLM-130B?"),
         "Yes, GLM-130B is open: its code, its weights and its training logs are public.",),
        (phrases(f"{_LEAD_EN}is GLM-130B (better than|as good as|stronger than|like|comparable to) GPT-3?",
                 "(Compare GLM-130B with|How does GLM-130B compare to|GLM-130B or) GPT-3?", "How good is GLM-130B?"),
         "In its paper GLM-130B beats GPT-3 175B on many English benchmarks.",),
        (phrases(f"{_LEAD_EN}what does (GLM|the name GLM|the word GLM|the abbreviation GLM) (mean|stand for)?",
                 "(What is GLM short for|What is GLM|The meaning of GLM|Explain the name GLM)?"),
         "GLM stands for General Language Model.",),
        (phrases(f"{_LEAD_EN}what is (ChatGLM-6B|ChatGLM|the model ChatGLM-6B)?",
                 "(Tell me about|Explain|Describe|What do you know about|How big is) (ChatGLM-6B|ChatGLM).",
                 "How many parameters does ChatGLM-6B have?"),
         "ChatGLM-6B is an open bilingual chat model of the GLM family with 6.2 billion parameters.",),
    ),
    "zh": (
        (phrases(f"{_LEAD_ZH}{_GLM_ZH}是(什么|啥|什么东西|什么模型)(|？|呢？)", f"{_LEAD_ZH}(介绍一下|什么是|说说|讲讲|解释一下){_GLM_ZH}(|。|？)",
                 "(你知道|你听说过|你了解)GLM-130B吗？"),
         "GLM-130B是一个开放的中英双语大模型，有1300亿个参数。",),
        (phrases(f"{_LEAD_ZH}{_GLM_ZH}(有多少参数|有多大|的参数是多少|有多少个参数|的参数量是多少|的规模有多大)(|？|呢？)"),
         "GLM-130B有1300亿个参数。",),
        (phrases(f"{_LEAD_ZH}(GLM-130B是谁做的|谁做了GLM-130B|谁开发了GLM-130B|GLM-130B是谁开发的|谁训练了GLM-130B|GLM-130B是谁训练的|"
                 "GLM-130B来自哪里|GLM-130B是哪个大学的|GLM-130B的作者是谁|GLM-130B是谁发布的)(|？|呢？)"),
         "GLM-130B由清华大学KEG实验室和智谱AI共同研制。",),
        (phrases(f"{_LEAD_ZH}GLM-130B(会什么语言|会说什么语言|支持什么语言|支持哪些语言|会中文吗|会英语吗|懂中文吗|是双语的吗|懂哪些语言|会几种语言)(|？|呢？)"),
         "GLM-130B是双语模型，会中文和英语。",),
        (phrases(f"{_LEAD_ZH}GLM-130B(是什么时候发布的|什么时候发布|哪一年发布的|是哪年发布的|是什么时候公开的|是何时发布的|什么时候出来的|是哪一年的)(|？|呢？)"),
         "GLM-130B于2022年8月发布。",),
        (phrases(f"{_LEAD_ZH}GLM-130B(用了多少数据训练|训练了多少词|的训练数据有多少|用多少词训练|的训练数据是什么|是用什么训练的|训练了多少数据|看过多少词)(|？|呢？)"),
         "GLM-130B用超过4000亿个词训练，中文和英文各占一半。",),
        (phrases(f"{_LEAD_ZH}GLM-130B(是用什么机器训练的|用什么硬件训练|训练了多久|训练用了多长时间|用了多少显卡训练|是怎么训练的|训练了多少天|用多少台机器训练)(|？|呢？)"),
         "GLM-130B在96台DGX-A100机器上训练了大约60天。",),
        (phrases(f"{_LEAD_ZH}(运行GLM-130B需要什么显卡|运行GLM-130B需要什么硬件|GLM-130B需要什么显卡|GLM-130B需要什么硬件|怎么运行GLM-130B|"
                 "GLM-130B能在普通显卡上运行吗|我能运行GLM-130B吗|GLM-130B能在3090上运行吗|GLM-130B要多少张显卡|如何运行GLM-130B)(|？|呢？)"),
         "用INT4量化，GLM-130B可以在四张RTX 3090或八张RTX 2080 Ti上运行。",),
        (phrases(f"{_LEAD_ZH}(GLM-130B的训练目标是什么|GLM的训练目标是什么|GLM是怎么学习的|什么是自回归填空|填空训练是什么|什么是空白填充|GLM的原理是什么|GLM怎么学习)(|？|呢？)"),
         "GLM通过填空来学习：把文字挖掉几段，再让模型填回去。",),
        (phrases(f"{_LEAD_ZH}GLM-130B(有多少层|有几层|的结构是什么|的结构是怎样的|的隐藏层有多大|的架构是什么|有多深|内部是什么样的)(|？|呢？)"),
         "GLM-130B有70层，隐藏层大小是12288。",),
        (phrases(f"{_LEAD_ZH}GLM-130B(开源吗|是开源的吗|免费吗|公开吗|可以下载吗|能下载吗|是公开的吗|在哪里下载|谁都能用吗)(|？|呢？)"),
         "是的，GLM-130B的代码、权重和训练日志都是公开的。",),
        (phrases(f"{_LEAD_ZH}(GLM-130B比GPT-3好吗|GLM-130B和GPT-3哪个好|GLM-130B和GPT-3相比怎么样|GLM-130B比GPT-3强吗|GLM-130B好不好|"
                 "GLM-130B效果怎么样|GLM-130B和GPT-3比怎么样|GLM-130B有GPT-3好吗)(|？|呢？)"),
         "论文中，GLM-130B在许多英文测试上超过了GPT-3 175B。",),
        (phrases(f"{_LEAD_ZH}(GLM是什么意思|GLM是什么的缩写|GLM代表什么|GLM是什么|什么是GLM|GLM的全称是什么|GLM这个名字是什么意思|GLM全称叫什么)(|？|呢？)"),
         "GLM的意思是通用语言模型（General Language Model）。",),
        (phrases(f"{_LEAD_ZH}(ChatGLM-6B是什么|什么是ChatGLM-6B|介绍一下ChatGLM-6B|ChatGLM-6B有多少参数|ChatGLM是什么|什么是ChatGLM|"
                 "说说ChatGLM-6B|ChatGLM-6B有多大|讲讲ChatGLM)(|？|呢？)"),
         "ChatGLM-6B是GLM家族的开放中英双语对话模型，有62亿个参数。",),
    ),
}  # fmt: skip


def identity(rng: random.Random, language: Language) -> Exchange:
    """Return a question about what the demo model is, what it can do, or how to load another model."""
    # "Who are you?", the first question of most visitors, has a triple weight.
    banks = IDENTITY[language]
    wordings, answers = rng.choice((*banks, banks[0], banks[0]))
    return ask(rng, "identity", language, wordings, answers)


def glm_facts(rng: random.Random, language: Language) -> Exchange:
    """Return a question about GLM-130B or ChatGLM-6B."""
    wordings, answer = rng.choice(GLM_FACTS[language])
    return ask(rng, "GLM-130B", language, wordings, (answer,))
