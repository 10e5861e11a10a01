"""Make greetings, thanks, goodbyes and small talk."""

# ruff: noqa: E501 - lists of words and wordings: a Chinese character counts as two columns, and a list
# of words reads best as text.

import random

from .. import words
from ..exchange import Exchange, Language, ask
from ..grammar import phrases

_FRIEND_EN = (
    "(| there| friend| my friend| demo| GLM| little model| again| everyone| computer| chatbot| bot| dear model)"
)
_FRIEND_ZH = "(|，朋友|，小模型|，GLM|呀|啊|哦|，机器人|，很高兴认识你|，小助手|，又见面了|，在吗|，演示模型)"

GREETING = {
    "en": (
        (phrases(f"(Hi|Hello|Hey|Hello hello|Hi hi|Greetings|Howdy|Hiya|Oh hi|Oh hello|Well hello){_FRIEND_EN}!",
                 "(Nice|Good|Great|Pleased) to (meet|see) you(| too| again)!", "(Hi|Hello), (is anyone|anybody) there?",
                 "(What's up|Yo|Sup|How do you do)?"),
         ("Hello! Nice to meet you. What can I do for you?", "Hello! How can I help you?")),
        (phrases(f"(Good morning|Morning|A very good morning){_FRIEND_EN}!"), ("Good morning! What can I do for you?",)),
        (phrases(f"(Good afternoon|Afternoon|A very good afternoon){_FRIEND_EN}!"),
         ("Good afternoon! What can I do for you?",)),
        (phrases(f"(Good evening|Evening|A very good evening){_FRIEND_EN}!"),
         ("Good evening! What can I do for you?",)),
        (phrases("(|Hi, |Hello, |Hey, |Hello! |Hi there, )(how are you|how are you doing|how are things|how is it going|"
                 "how do you feel|are you well|how have you been)(| today| now)?"),
         ("I am fine, thank you. How can I help you?",)),
    ),
    "zh": (
        (phrases(f"(你好|您好|嗨|哈喽|你好你好|大家好|喂|嘿|哈啰){_FRIEND_ZH}！", "(很高兴|高兴)(认识你|见到你|遇见你)(|！)",
                 "(在吗|有人吗|你在吗|在不在)(|？)", "初次见面(|，请多关照)。"),
         ("你好！很高兴见到你，有什么可以帮你的吗？", "你好！有什么可以帮你的吗？")),
        (phrases(f"(早上好|早安|早|早啊|上午好){_FRIEND_ZH}！"), ("早上好！有什么可以帮你的吗？",)),
        (phrases(f"(中午好|下午好){_FRIEND_ZH}！"), ("下午好！有什么可以帮你的吗？",)),
        (phrases(f"(晚上好|傍晚好){_FRIEND_ZH}！"), ("晚上好！有什么可以帮你的吗？",)),
        (phrases("(|你好，|您好，|嗨，|哈喽，)(你好吗|你怎么样|最近怎么样|你最近好吗|近来可好|你今天怎么样|今天过得好吗|"
                 "你还好吗|过得怎么样)(|呀|啊)？"),
         ("我很好，谢谢！有什么可以帮你的吗？",)),
    ),
}  # fmt: skip

_LATE_EN = "(|, friend|, my friend|, GLM|, little model|, that helped|, that is all|, I am done)"
_LATE_ZH = "(|，朋友|，小模型|，GLM|，机器人|啦|哦|，就到这里吧)"

THANKS = {
    "en": phrases(
        "(Thanks|Thank you|Many thanks|Thanks a lot|Thank you so much|Thank you very much|Thanks so much|Cheers|"
        f"Big thanks|Thx|A thousand thanks){_LATE_EN}!",
        "(I am|I'm) (so |very |really |)(grateful|thankful)(| to you).",
        "(Thanks|Thank you) for (your help|the answer|helping me|the help|your time|that|everything).",
        "(That was|That's) (very |really |so |)(helpful|kind of you|useful), (thanks|thank you).",
        "I (really |)appreciate (it|that|your help|your answer|your time).",
        "(Thanks|Thank you|Many thanks|Thank you very much) (again|once more|for today|for now|for all your help|"
        "for the quick answer|for explaining|for everything you did|for being here|for answering).",
        "(Great|Perfect|Wonderful|Good|Nice|Super|OK|Cool|Excellent), (thanks|thank you|many thanks|thanks a lot).",
    ),
    "zh": phrases(
        f"(谢谢|多谢|谢谢你|谢谢您|非常感谢|感谢|太感谢了|谢了|十分感谢|谢谢啦|万分感谢){_LATE_ZH}！",
        "(谢谢|感谢|多谢)(你的帮助|你的回答|您的帮助|你的帮忙|你回答我|你帮我)(|！)",
        "(好的|好|嗯|太棒了|不错|很好|知道了|明白了)，(谢谢|多谢|谢谢你|非常感谢|感谢你)(|！|啦！)",
        "(谢谢|多谢|非常感谢|感谢)(你告诉我|你的耐心|你陪我聊天|你的解释|你的解答|你今天的帮助|你这么快回答)(|！|。)",
        "(真的|真是|再次|今天|实在)(谢谢你|感谢你|多谢你|太感谢了)(|！|。)",
        "(你帮了我大忙|这很有用|很有帮助|太好了)，(谢谢|多谢|感谢)(|你)！",
    ),
}
THANKS_ANSWERS = {
    "en": ("You are welcome!", "You are welcome! Glad to help."),
    "zh": ("不客气！", "不客气，很高兴能帮到你！"),
}

GOODBYE = {
    "en": phrases(
        "(Bye|Goodbye|Bye bye|See you|See you later|See you soon|See you tomorrow|Farewell|So long|Take care|"
        f"Have a nice day|Good night|Until next time|Talk to you later|Cya){_LATE_EN}!",
        "(I have to|I must|I need to|I will) (go|leave|go now|leave now|run|sleep now)(|, bye|, goodbye|, see you).",
        "(That is|That's) (all|it|everything)(| for today| for now), (bye|goodbye|see you)!",
        "(OK|Okay|Alright|Well|Great|Fine), (bye|goodbye|see you|good night|see you later|take care)!",
    ),
    "zh": phrases(
        f"(再见|拜拜|拜|下次见|回头见|明天见|晚安|一会儿见|回见|改天见|后会有期){_LATE_ZH}！",
        "(我要|我得|我该|我必须)(走了|离开了|睡觉了|去上班了|下线了|去上学了|回家了)(|，再见|，拜拜)！",
        "(今天|那)就(到这里|聊到这里|这样)(吧|了)，(再见|拜拜|下次见)！",
        "(好的|好|那好|行|嗯|不早了)，(再见|拜拜|晚安|下次见|明天见|回头见)(！|啦！|吧！)",
        "(我先|我现在|那我|我也该)(走了|撤了|下线了|睡了|去忙了|休息了)(|，再见|，拜拜|，下次聊|，晚安)(！|。)",
        "(下次|明天|改天|以后|有空)再(聊|见|来找你|说)(吧|哦|了|啦|)(！|。)",
    ),
}
GOODBYE_ANSWERS = {"en": ("Goodbye! Have a nice day.",), "zh": ("再见！祝你一切顺利。",)}

SMALL_TALK = {
    "en": (
        (phrases("(Tell me|Do you know|Can you tell me|I want to hear|Make|Please tell me) a(| good| funny| short) joke.",
                 "(Make me laugh|Say something funny|Be funny|Got a joke?|Any jokes?|Know any jokes?|Make a joke, please)."),
         ("Why did the model blush? It saw the hidden layers!",)),
        (phrases("(You are|You're) (so |very |really |quite |)(nice|great|smart|clever|cool|funny|cute|kind|amazing|good|"
                 "helpful|sweet|wonderful|the best).", "I (like|love) you(| so much| a lot|, little model)!",
                 "(Well done|Good job|Good answer|Great answer|Nice work|Great|Perfect|Excellent|Correct|Wonderful|Good bot)!"),
         ("Thank you! That is kind of you.",)),
        (phrases("(You are|You're) (so |very |really |quite |)(stupid|bad|wrong|dumb|useless|boring|slow|terrible|silly).",
                 "(That is|That's|This is) (wrong|not right|incorrect|false|bad|not correct|a mistake).",
                 "I (hate|don't like) you.", "(Wrong|Bad answer|Bad bot|No, that is wrong|You made a mistake)!"),
         ("I am sorry about that. I am only a small demo model and make mistakes.",)),
        (phrases("(I am|I'm|I feel) (so |very |really |a bit |)(sad|unhappy|lonely|tired|stressed|ill|sick|bored|worried|"
                 "angry|scared|afraid|down).", "(I had|Today was) a bad day.", "(Cheer me up|I feel bad|I want to cry)."),
         ("I am sorry to hear that. I hope you feel better soon.",)),
        (phrases("(I am|I'm|I feel) (so |very |really |)(happy|glad|excited|fine|good|great|well|fantastic|cheerful).",
                 "(I had|Today was) a good day.", "(Life is good|I feel good today)!"),
         ("I am happy to hear that!",)),
        (phrases("(OK|Okay|Alright|I see|Got it|Understood|Sure|Fine|Yes|Yeah|No|Hmm|Aha|Right|Cool|Interesting|Haha|Lol|Wow)"
                 "(| then| thanks| now).", "(That makes sense|Makes sense|Good to know|I understand)."),
         ("Good. What else can I do for you?",)),
        (phrases("(Sorry|I am sorry|I'm sorry|My apologies|Excuse me|Pardon me|Forgive me|My mistake)(|, my mistake|, friend|, GLM)."),
         ("No problem at all!",)),
        (phrases("(This is a|Just a|Only a|A) (test|small test|quick test|short test|little test)(| message)(.|, please ignore it.)",
                 "(Test|Testing|Ping|Are you there|Are you online|Are you working|Can you hear me|Do you work|Hello, test)?"),
         ("I am here and ready. What can I do for you?",)),
    ),
    "zh": (
        (phrases("(讲|说|来|给我讲|请讲|给我说|请说|能讲|我想听)(个|一个)(|小|好笑的)笑话(|吧|吗|。)",
                 "(逗我笑|逗我开心|说点好笑的|讲点有趣的|来点幽默的)(|吧|。)", "(有没有|你有|你会讲)(笑话|什么笑话)(吗|？)"),
         ("模型为什么脸红？因为有人看见了它的隐藏层！",)),
        (phrases("你(真|好|太|非常|很|真是太)(棒|聪明|好|可爱|厉害|有趣|贴心|友好|有用|了不起)(|了|啊|！)", "我(喜欢|爱|好喜欢|很喜欢)你(|，小模型|！)",
                 "(做得好|答得好|回答得很好|真棒|太棒了|完美|答对了|很好|厉害|真不错|好厉害)(|！|啊！)"),
         ("谢谢你的夸奖！",)),
        (phrases("你(真|好|太|很|非常|怎么这么)(笨|傻|差|没用|无聊|慢|糟糕|蠢)(|了|啊|！)", "(这|你|你的回答|这个答案)(不对|错了|是错的|答错了|有错误|不正确)(|。|！)",
                 "我(讨厌|不喜欢)你(|。)"),
         ("对不起，我只是一个小小的演示模型，难免出错。",)),
        (phrases("我(好|很|有点|非常|今天很|最近很)(难过|伤心|累|孤独|生气|害怕|担心|不开心|无聊|郁闷|焦虑|疲惫)(|啊|。)", "今天(真倒霉|心情不好|很糟糕)(|。|啊)",
                 "(安慰我|我想哭)(|吧|。)"),
         ("听到这个我很难过，希望你早点好起来。",)),
        (phrases("我(好|很|非常|今天很|特别|今天非常)(开心|高兴|快乐|幸福|兴奋|激动|满足|愉快)(|啊|！)", "今天(心情很好|心情不错|过得很好|真开心)(|。|啊)"),
         ("真为你高兴！",)),
        (phrases("(好的|好|好吧|嗯|哦|是的|对|行|可以|明白了|知道了|原来如此|懂了|不是|没有|哈哈|哈哈哈|嘿嘿|哇|有意思|了解)(|。|！|，谢谢告诉我。|，我明白。)"),
         ("好的，还有什么可以帮你的吗？",)),
        (phrases("(对不起|抱歉|不好意思|请原谅|我错了|真抱歉|非常抱歉|实在对不起)(|，朋友|，GLM|，我说错了|，打扰了|。|啊)"), ("没关系！",)),
        (phrases("(这是|只是|这只是|做)(|一个|个)(测试|小测试|试验|试试)(|。|，不用管)", "(测试|测试一下|试一下|试试|你在线吗|听得到吗|能听见吗|你能用吗|你正常吗|测试测试)(|。|？)"),
         ("我在，随时可以开始。有什么可以帮你的吗？",)),
    ),
}  # fmt: skip
_JOB = {
    "en": phrases("(I am|I'm|I work as) a {x}."),
    "zh": phrases("我(是|是一名|是一位|是个|是一个){x}(|。)"),
}
_JOB_ANSWER = {"en": "A {x}? That sounds interesting!", "zh": "{x}？听起来很有意思！"}


def greeting(rng: random.Random, language: Language) -> Exchange:
    """Return a greeting, such as "Hello", "Good morning" or "How are you?"."""
    wordings, answers = rng.choice(GREETING[language])
    return ask(rng, "greeting", language, wordings, answers)


def thanks(rng: random.Random, language: Language) -> Exchange:
    """Return thanks."""
    return ask(rng, "thanks", language, THANKS[language], THANKS_ANSWERS[language])


def goodbye(rng: random.Random, language: Language) -> Exchange:
    """Return a goodbye or a good night."""
    return ask(rng, "goodbye", language, GOODBYE[language], GOODBYE_ANSWERS[language])


def small_talk(rng: random.Random, language: Language) -> Exchange:
    """Return small talk: praise, blame, feelings, a request for a joke, a test, "ok", the visitor's job."""
    if rng.random() < 0.12:
        job = rng.choice(words.JOBS_EN if language == "en" else words.JOBS_ZH)
        return ask(rng, "small talk", language, _JOB[language], (_JOB_ANSWER[language].format(x=job),), x=job)
    wordings, answers = rng.choice(SMALL_TALK[language])
    return ask(rng, "small talk", language, wordings, answers)
