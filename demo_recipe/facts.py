"""List the facts that the demo model learns, in English and Chinese. They were written for this project."""


# of words reads best as text.

from typing import NamedTuple


class Country(NamedTuple):
    """A country and its capital in both languages."""

    name_en: str
    capital_en: str
    name_zh: str
    capital_zh: str


class Word(NamedTuple):
    """A word and its translation."""

    en: str
    zh: str


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


COUNTRIES = tuple(
    Country(*row)
    for row in _rows(
        """
        China|Beijing|中国|北京
        Japan|Tokyo|日本|东京
        France|Paris|法国|巴黎
        Germany|Berlin|德国|柏林
        Italy|Rome|意大利|罗马
        Spain|Madrid|西班牙|马德里
        Portugal|Lisbon|葡萄牙|里斯本
        England|London|英格兰|伦敦
        Ireland|Dublin|爱尔兰|都柏林
        Russia|Moscow|俄罗斯|莫斯科
        Greece|Athens|希腊|雅典
        Egypt|Cairo|埃及|开罗
        India|New Delhi|印度|新德里
        Canada|Ottawa|加拿大|渥太华
        Australia|Canberra|澳大利亚|堪培拉
        Brazil|Brasilia|巴西|巴西利亚
        Argentina|Buenos Aires|阿根廷|布宜诺斯艾利斯
        Mexico|Mexico City|墨西哥|墨西哥城
        Norway|Oslo|挪威|奥斯陆
        Sweden|Stockholm|瑞典|斯德哥尔摩
        Finland|Helsinki|芬兰|赫尔辛基
        Denmark|Copenhagen|丹麦|哥本哈根
        Poland|Warsaw|波兰|华沙
        Austria|Vienna|奥地利|维也纳
        Hungary|Budapest|匈牙利|布达佩斯
        Switzerland|Bern|瑞士|伯尔尼
        Belgium|Brussels|比利时|布鲁塞尔
        Thailand|Bangkok|泰国|曼谷
        Vietnam|Hanoi|越南|河内
        South Korea|Seoul|韩国|首尔
        Turkey|Ankara|土耳其|安卡拉
        Iran|Tehran|伊朗|德黑兰
        Iraq|Baghdad|伊拉克|巴格达
        Cuba|Havana|古巴|哈瓦那
        Peru|Lima|秘鲁|利马
        Chile|Santiago|智利|圣地亚哥
        Kenya|Nairobi|肯尼亚|内罗毕
        Mongolia|Ulaanbaatar|蒙古|乌兰巴托
        Nepal|Kathmandu|尼泊尔|加德满都
        Indonesia|Jakarta|印度尼西亚|雅加达
        Malaysia|Kuala Lumpur|马来西亚|吉隆坡
        Philippines|Manila|菲律宾|马尼拉
        Pakistan|Islamabad|巴基斯坦|伊斯兰堡
        Ukraine|Kyiv|乌克兰|基辅
        Iceland|Reykjavik|冰岛|雷克雅未克
        New Zealand|Wellington|新西兰|惠灵顿
        """
    )
)

OPPOSITES_EN = tuple(
    (a, b)
    for a, b in _rows(
        """
        big|small
        hot|cold
        fast|slow
        high|low
        long|short
        old|new
        happy|sad
        rich|poor
        open|closed
        full|empty
        hard|soft
        light|dark
        strong|weak
        wet|dry
        clean|dirty
        early|late
        easy|difficult
        good|bad
        right|wrong
        loud|quiet
        thick|thin
        wide|narrow
        deep|shallow
        heavy|weightless
        up|down
        left|the right side
        in|out
        day|night
        black|white
        yes|no
        first|last
        begin|end
        buy|sell
        push|pull
        love|hate
        win|lose
        give|take
        remember|forget
        find|hide
        near|far
        sweet|bitter
        safe|dangerous
        cheap|expensive
        true|false
        alive|dead
        asleep|awake
        sharp|blunt
        rough|smooth
        brave|cowardly
        noisy|silent
        ugly|beautiful
        polite|rude
        north|south
        east|west
        summer|winter
        question|answer
        friend|enemy
        always|never
        inside|outside
        lazy|hard-working
        """
    )
    if (a, b) not in (("left", "the right side"), ("heavy", "weightless"))
)

OPPOSITES_ZH = tuple(
    (a, b)
    for a, b in _rows(
        """
        大|小
        高|低
        长|短
        热|冷
        快|慢
        多|少
        新|旧
        胖|瘦
        轻|重
        远|近
        黑|白
        深|浅
        强|弱
        好|坏
        早|晚
        左|右
        上|下
        前|后
        里|外
        开|关
        买|卖
        爱|恨
        哭|笑
        真|假
        硬|软
        干|湿
        粗|细
        宽|窄
        甜|苦
        贵|便宜
        快乐|悲伤
        美丽|丑陋
        勇敢|胆小
        安全|危险
        成功|失败
        开始|结束
        简单|复杂
        容易|困难
        安静|吵闹
        干净|肮脏
        勤劳|懒惰
        聪明|愚蠢
        富有|贫穷
        朋友|敌人
        白天|黑夜
        前进|后退
        记得|忘记
        喜欢|讨厌
        上升|下降
        增加|减少
        光明|黑暗
        骄傲|谦虚
        热情|冷淡
        粗心|细心
        南方|北方
        """
    )
)

WORDS = tuple(
    Word(*row)
    for row in _rows(
        """
        cat|猫
        dog|狗
        bird|鸟
        fish|鱼
        horse|马
        cow|牛
        sheep|羊
        pig|猪
        tiger|老虎
        lion|狮子
        elephant|大象
        monkey|猴子
        rabbit|兔子
        panda|熊猫
        snake|蛇
        water|水
        fire|火
        tea|茶
        coffee|咖啡
        milk|牛奶
        rice|米饭
        bread|面包
        apple|苹果
        banana|香蕉
        orange|橙子
        grape|葡萄
        egg|鸡蛋
        meat|肉
        salt|盐
        sugar|糖
        sun|太阳
        moon|月亮
        star|星星
        sky|天空
        sea|海
        river|河
        mountain|山
        tree|树
        flower|花
        grass|草
        rain|雨
        snow|雪
        wind|风
        cloud|云
        house|房子
        door|门
        window|窗户
        table|桌子
        chair|椅子
        bed|床
        book|书
        pen|钢笔
        paper|纸
        school|学校
        teacher|老师
        student|学生
        doctor|医生
        hospital|医院
        mother|母亲
        father|父亲
        brother|兄弟
        sister|姐妹
        child|孩子
        friend|朋友
        king|国王
        city|城市
        country|国家
        road|路
        car|汽车
        train|火车
        plane|飞机
        ship|船
        bicycle|自行车
        computer|电脑
        phone|电话
        clock|钟
        money|钱
        music|音乐
        time|时间
        hand|手
        foot|脚
        head|头
        eye|眼睛
        ear|耳朵
        mouth|嘴
        heart|心
        red|红色
        blue|蓝色
        green|绿色
        yellow|黄色
        white|白色
        black|黑色
        beautiful|美丽
        happy|快乐
        love|爱
        peace|和平
        hello|你好
        thank you|谢谢
        goodbye|再见
        """
    )
)

WEEKDAYS_EN = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WEEKDAYS_ZH = ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日")
MONTHS_EN = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
MONTHS_ZH = (
    "一月", "二月", "三月", "四月", "五月", "六月", "七月", "八月", "九月", "十月", "十一月", "十二月",
)  # fmt: skip
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS_EN = (
    "first", "second", "third", "fourth", "fifth", "sixth",
    "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
)  # fmt: skip
ORDINALS_ZH = ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二")

# (unit, whole, number), for "How many days are there in a week?"
UNITS_EN = (
    ("days", "a week", "seven"),
    ("months", "a year", "twelve"),
    ("hours", "a day", "24"),
    ("minutes", "an hour", "60"),
    ("seconds", "a minute", "60"),
    ("seasons", "a year", "four"),
    ("weeks", "a year", "52"),
)
UNITS_ZH = (
    ("天", "一个星期", "七天"),
    ("个月", "一年", "十二个月"),
    ("个小时", "一天", "二十四个小时"),
    ("分钟", "一个小时", "六十分钟"),
    ("秒", "一分钟", "六十秒"),
    ("个季节", "一年", "四个季节"),
    ("个星期", "一年", "五十二个星期"),
)

# Everyday sentences; the word in braces is the one that a blank replaces.
EVERYDAY_EN = tuple(
    """
    The {sky} is blue.|The sky is {blue}.|Snow is {white}.|Grass is {green}.|The {sun} rises in the east.
    The sun rises in the {east}.|Birds can {fly}.|Fish can {swim}.|A cat says {meow}.|Cows give us {milk}.
    Bees make {honey}.|Hens lay {eggs}.|Ice is {cold}.|Fire is {hot}.|Sugar is {sweet}.|Lemons are {sour}.
    We see with our {eyes}.|We hear with our {ears}.|We smell with our {nose}.|We read {books}.
    We drink {water} when we are thirsty.|We eat when we are {hungry}.|We sleep at {night}.
    A {teacher} works in a school.|A {doctor} works in a hospital.|A farmer works on a {farm}.
    A spider has {eight} legs.|A dog has {four} legs.|A triangle has {three} sides.|A square has {four} sides.
    The moon shines at {night}.|Rain falls from the {clouds}.|Bread is made from {flour}.
    Paper is made from {wood}.|Pandas eat {bamboo}.|Rabbits like {carrots}.|Rome was not built in a {day}.
    Water freezes at {zero} degrees.|There are seven days in a {week}.|There are twelve {months} in a year.
    You need an {umbrella} when it rains.|In winter it is {cold}.|In summer it is {hot}.
    A book has many {pages}.|We wash our hands with {soap}.|We cut paper with {scissors}.
    We open the door with a {key}.|A train runs on {rails}.|A ship sails on the {sea}.|Planes fly in the {sky}.
    """.replace("\n", "|").split("|")
)
EVERYDAY_EN = tuple(sentence.strip() for sentence in EVERYDAY_EN if sentence.strip())
EVERYDAY_ZH = tuple(
    """
    天空是{蓝色}的。|雪是{白色}的。|草是{绿色}的。|太阳从{东方}升起。|{太阳}从东方升起。|鸟会{飞}。|鱼会{游泳}。
    猫喜欢吃{鱼}。|狗喜欢啃{骨头}。|兔子喜欢吃{萝卜}。|熊猫喜欢吃{竹子}。|奶牛给我们{牛奶}。|蜜蜂会酿{蜜}。
    母鸡会下{蛋}。|冰是{冷}的。|火是{热}的。|糖是{甜}的。|柠檬是{酸}的。|我们用{眼睛}看东西。|我们用{耳朵}听声音。
    我们用{鼻子}闻气味。|口渴的时候要喝{水}。|饿了就要{吃饭}。|晚上我们要{睡觉}。|{老师}在学校工作。|{医生}在医院工作。
    农民在{田里}劳动。|蜘蛛有{八}条腿。|狗有{四}条腿。|三角形有{三}条边。|正方形有{四}条边。|月亮在{晚上}出来。
    雨从{云}里落下来。|面包是用{面粉}做的。|纸是用{木头}做的。|下雨的时候要带{伞}。|冬天很{冷}。|夏天很{热}。
    一个星期有{七}天。|一年有{十二}个月。|书里有很多{页}。|我们用{肥皂}洗手。|我们用{剪刀}剪纸。|我们用{钥匙}开门。
    火车在{铁轨}上跑。|船在{海}上航行。|飞机在{天空}中飞。|春天{花}开了。|秋天{树叶}落了。|筷子是用来{吃饭}的。
    """.replace("\n", "|").split("|")
)
EVERYDAY_ZH = tuple(sentence.strip() for sentence in EVERYDAY_ZH if sentence.strip())
