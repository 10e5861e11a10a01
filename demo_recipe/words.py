"""List words for names, preferences and unanswerable questions, and make random words. Written for this project."""

# ruff: noqa: E501, SIM905 - lists of words and wordings: a Chinese character counts as two columns, and a list
# of words reads best as text.

import random

NAMES_EN = tuple(
    """
    Alice Anna Adam Amy Andy Alex Ben Bob Bella Beth Brian Carl Carol Chris Clara Daisy Dan David Diana Dora Ed Ella
    Emma Eric Eva Fay Felix Fiona Frank Fred Gary George Gina Grace Greg Hank Harry Helen Henry Holly Ian Irene Iris
    Isaac Ivan Ivy Jack James Jane Jason Jean Jenny Jerry Jill Jim Joan Joe John Judy Julia Karen Karl Kate Ken Kevin
    Kim Kyle Laura Leo Lena Liam Lily Linda Lisa Lola Louis Lucas Lucy Luke Lynn Maggie Marc Maria Mark Martin Mary Matt
    Max Maya Megan Mia Mike Mila Molly Nancy Nathan Neil Nick Nina Noah Nora Oliver Olga Oscar Otto Owen Pam Pat Paul
    Peter Phil Polly Quinn Rachel Ralph Ray Rita Rob Robin Roger Rosa Rose Ruth Ryan Sally Sam Sandra Sara Scott Sean
    Simon Sofia Sonia Stan Steve Sue Susan Tara Ted Tess Tim Tina Toby Tom Tony Tracy Uma Vera Victor Vince Wanda Wendy
    Will Yara Zack Zara Zoe
    """.split()
)
SURNAMES_ZH = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林郑谢罗梁宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严"
GIVEN_ZH = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超霞平刚玲红文建华国英金志海波鑫宇浩天佳琪梦雨欣怡子涵轩然晨思远诗雅婷雪莹晶慧颖琳璐宁安乐康健飞翔鹏程东南西北春夏秋冬月星云山川林森木石玉珍宝贵福德仁义礼智信一小大"
NICKNAMES_ZH = ("小", "阿", "大", "老")

LIKES_EN = tuple(
    """
    tea|coffee|milk|chocolate|music|football|tennis|swimming|reading|dancing|singing|cooking|painting|chess|hiking
    running|skiing|fishing|gardening|travelling|cats|dogs|horses|rabbits|birds|pandas|flowers|apples|bananas|noodles|rice
    pizza|bread|cheese|ice cream|cake|soup|salad|fish|rain|snow|summer|winter|spring|the sea|mountains|old films|jazz
    basketball|volleyball|cycling|drawing|poetry|history|mathematics|physics|puzzles|trains|bicycles|stars|the moon
    green tea|hot soup|long walks|board games|video games|science fiction|folk songs|strawberries|mangoes|dumplings
    """.replace("\n", "|").split("|")
)
LIKES_EN = tuple(word.strip() for word in LIKES_EN if word.strip())
LIKES_ZH = tuple(
    """
    喝茶 喝咖啡 喝牛奶 吃巧克力 听音乐 踢足球 打网球 游泳 看书 跳舞 唱歌 做饭 画画 下棋 爬山 跑步 滑雪 钓鱼 种花 旅行
    猫 狗 马 兔子 小鸟 熊猫 鲜花 苹果 香蕉 面条 米饭 包子 饺子 面包 冰淇淋 蛋糕 火锅 沙拉 鱼 下雨天 雪 夏天 冬天 春天 秋天
    大海 高山 老电影 打篮球 打排球 骑自行车 写诗 历史 数学 物理 拼图 火车 星星 月亮 绿茶 热汤 散步 玩游戏 科幻小说 民歌
    草莓 芒果 葡萄 西瓜 打乒乓球 打羽毛球 看电影 拍照 写字 弹钢琴 拉小提琴 吃水果 睡觉 聊天
    """.split()
)
# Maps each kind to its values, for "My favourite colour is blue."
FAVOURITES_EN = {
    "colour": "red blue green yellow white black pink purple orange brown grey silver gold turquoise".split(),
    "animal": "cat dog horse panda tiger lion rabbit elephant monkey dolphin owl fox bear wolf penguin".split(),
    "food": "pizza rice noodles bread soup cheese salad dumplings pasta chocolate fish tofu curry sushi".split(),
    "fruit": "apple banana orange grape mango peach pear cherry lemon melon plum kiwi".split(),
    "drink": "tea coffee milk water juice cocoa lemonade soda".split(),
    "sport": "football tennis swimming running skiing chess basketball volleyball cycling golf rugby".split(),
    "season": "spring summer autumn winter".split(),
    "city": "Paris London Rome Berlin Beijing Shanghai Tokyo Vienna Madrid Oslo Boston Sydney Lisbon".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
}
FAVOURITES_ZH = {
    "颜色": "红色 蓝色 绿色 黄色 白色 黑色 粉色 紫色 橙色 棕色 灰色 银色 金色".split(),
    "动物": "猫 狗 马 熊猫 老虎 狮子 兔子 大象 猴子 海豚 狐狸 熊 狼 企鹅 猫头鹰".split(),
    "食物": "披萨 米饭 面条 面包 汤 饺子 包子 豆腐 火锅 鱼 巧克力 蛋糕 烤鸭".split(),
    "水果": "苹果 香蕉 橙子 葡萄 芒果 桃子 梨 樱桃 柠檬 西瓜 草莓 荔枝".split(),
    "饮料": "茶 咖啡 牛奶 果汁 可可 汽水 豆浆 绿茶".split(),
    "运动": "足球 网球 游泳 跑步 滑雪 篮球 排球 乒乓球 羽毛球 骑车".split(),
    "季节": "春天 夏天 秋天 冬天".split(),
    "城市": "北京 上海 广州 深圳 杭州 成都 西安 南京 巴黎 伦敦 东京 罗马".split(),
}

# All values in the lists of names and preferences.
LISTED_EN = (*NAMES_EN, *LIKES_EN, *(x for values in FAVOURITES_EN.values() for x in values))
LISTED_ZH = (*LIKES_ZH, *(x for values in FAVOURITES_ZH.values() for x in values))

JOBS_EN = (
    "teacher student doctor nurse farmer driver cook baker painter writer singer engineer scientist lawyer pilot "
    "programmer musician dancer soldier sailor builder designer manager waiter gardener dentist"
).split()
JOBS_ZH = (
    "老师 学生 医生 护士 农民 司机 厨师 画家 作家 歌手 工程师 科学家 律师 飞行员 程序员 音乐家 演员 军人 工人 设计师 经理 服务员"
).split()

# Words for the slots of questions that the model declines (tasks/fallback.py).
NOUNS_EN = tuple(
    """
    abacus adventure airport algorithm ambition anchor anger ant apartment archive army art atom avalanche axe bakery
    balance balloon bank battery beach bean beetle belief bell biology blanket blood blockchain bone boot bottle brain
    brick bridge brush bucket budget butter button cable camera camp candle carpet castle cave cell chain chapter
    chemistry cheque church circle climate coast coat coin comet company compass concert contract copper corn cotton
    council court crane crime crown culture curtain dancer data debt democracy desert diamond diet dinosaur disease
    diploma divorce dragon dream dress drum dust earthquake economy editor election electron empire energy engine
    equation error estate evolution exam factory fashion fear fence festival fever fiction field film flag flute fog
    forest fork fossil freedom fridge frog fuel furniture galaxy garlic gas gate genius geometry ghost giraffe glacier
    glass glove glue goal government grammar gravity guitar gun hammer harbour hat helmet hero hobby hotel ink insect
    insurance internet investment iron island jacket jewel jungle justice kettle kingdom kitchen kite knife knot ladder
    lake lamp language laptop laser law leader leather lemon letter library lightning liver loan lock logic lung
    machine magic magnet map marble market marriage mathematics medicine melody memory metal microscope mill mirror
    mosquito motor museum mushroom mystery needle nerve network neuron noodle novel number nurse oak oil onion opera
    orbit organ oven oxygen paint palace parade parliament passport password pearl pepper perfume philosophy piano
    pigeon pillow pilot pipe planet plastic plate poem poet poison police politics pollution port potato pottery prison
    profit protein pyramid quantum queen quilt radar radio rainbow recipe refrigerator religion republic restaurant
    revolution ring robot rocket roof root rope salary satellite saw school science scissors sculpture shadow shark
    shelter shirt silk singer skeleton skin smoke soap software soil soup spider spoon sport square stadium statue
    steam stock stomach storm strategy submarine suitcase swamp sword symphony tailor tank tax telescope temple tent
    theatre theory thunder ticket tooth torch tourist towel tower toy tractor trade traffic treasure treaty triangle
    trumpet tunnel turtle umbrella universe university vaccine valley vampire vegetable vein video village vinegar
    violin virus volcano wallet war warehouse watch wave wealth weapon weather wheat wheel whisper witch wolf wool
    worker wound yoghurt zebra zoo
    """.split()
)
VERBS_EN = tuple(
    """
    bake build buy carry catch choose clean climb connect control cook copy cure cut debug decorate deliver describe
    design destroy draw drive earn explain explore fix fold grow heat improve install invent invest juggle knit learn
    lift manage measure mix move open optimise organise pack paint plan plant play polish predict prepare print produce
    program protect prove raise read record recycle repair replace ride run save sew sharpen shoot skate solve sort
    start stop store study summarise swim teach test throw tie train translate understand use wash watch weigh win wrap
    write
    """.split()
)
ADJECTIVES_EN = tuple(
    """
    ancient angry blue bright broken calm clever common cold complex curious dark deep delicious dry electric empty
    expensive famous fast fragile free fresh frozen funny gentle giant golden green grey healthy heavy hidden hollow
    huge important invisible large lazy legal light local lonely loud lucky magnetic massive modern natural nervous
    nuclear odd organic pale perfect popular powerful proud pure purple quiet random rare red round royal rusty salty
    scary secret sharp shiny silent slow small smart smooth solar sour spicy square sticky strange strong sunny tall
    tasty tiny toxic transparent tropical typical unusual useful violent warm wet wild wise wooden yellow young
    """.split()
)
NOUNS_ZH = tuple(
    """
    经济 政治 法律 哲学 化学 生物 地理 天文 宇宙 星系 黑洞 行星 卫星 火箭 飞船 机器人 算法 程序 数据 网络 软件 硬件 芯片 电池
    手机 冰箱 洗衣机 空调 电视 相机 耳机 键盘 鼠标 打印机 汽油 石油 煤炭 钢铁 塑料 玻璃 陶瓷 丝绸 棉花 皮革 家具 地毯 窗帘 枕头
    被子 毛巾 牙膏 香水 首饰 钻石 黄金 股票 基金 保险 贷款 税收 工资 合同 公司 工厂 银行 市场 超市 餐厅 酒店 机场 车站 港口 桥梁
    隧道 城堡 宫殿 寺庙 教堂 博物馆 图书馆 体育馆 公园 广场 村庄 农场 森林 沙漠 草原 湖泊 海洋 岛屿 火山 地震 台风 洪水 干旱 雷电
    彩虹 雾霾 气候 环境 污染 能源 病毒 细菌 疫苗 药物 手术 感冒 发烧 头痛 失眠 癌症 血液 骨头 肌肉 神经 大脑 基因 细胞 蛋白质
    维生素 蔬菜 土豆 洋葱 大蒜 辣椒 酱油 醋 豆浆 烤鸭 披萨 寿司 蛋糕 饼干 糖果 蜂蜜 啤酒 葡萄酒 历史 战争 革命 皇帝 将军 士兵
    英雄 诗人 画家 导演 演员 歌手 作家 记者 律师 法官 警察 消防员 司机 厨师 裁缝 木匠 渔夫 猎人 小偷 骗子 魔术 舞蹈 戏剧 电影
    小说 诗歌 散文 成语 谜语 故事 神话 传说 梦想 爱情 婚姻 家庭 友谊 幸福 孤独 压力 焦虑 自由 民主 公平 正义 道德 宗教 信仰 文化
    教育 考试 论文 作业 面试 简历 工作 创业 投资 旅游 签证 护照 地图 导航 飞碟 恐龙 鲸鱼 鲨鱼 章鱼 乌龟 蝴蝶 蚂蚁 蜘蛛 蚊子
    长颈鹿 斑马 狼 狐狸 熊 松鼠 鹦鹉 孔雀 玫瑰 牡丹 荷花 竹子 松树 蘑菇 钢琴 吉他 小提琴 足球 围棋 象棋 奥运会 世界杯
    """.split()
)
VERBS_ZH = tuple(
    """
    修理 制作 设计 安装 学习 购买 销售 管理 清洗 种植 烹饪 翻译 编写 分析 解释 总结 评价 预测 计算 测量 保护 研究 发明 改进 选择
    训练 使用 控制 打开 关闭 删除 恢复 下载 上传 保存 整理 装饰 运输 收集 记录 检查 治疗 预防 画 写 拍摄 折叠 组装 优化
    """.split()
)
ADJECTIVES_ZH = tuple(
    """
    漂亮的 古老的 现代的 神秘的 巨大的 微小的 有趣的 无聊的 昂贵的 美味的 危险的 可怕的 可爱的 聪明的 奇怪的 普通的 著名的 透明的
    红色的 绿色的 金色的 木头做的 会飞的 会说话的 最好的 最贵的 最快的 最高的 最大的 最难的
    """.split()
)
# Frequent characters, of which meaningless Chinese questions are made.
CHARACTERS_ZH = (
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学么之都好看起"
    "发当没成只如事把还用第样道想作种开美总从无情己面最女但现前些所同日手又行意动方期它头经长儿回位分爱老因很给名法间斯知世什两次"
    "使身者被高已亲其进此话常与活正感见明问力理尔点文几定本公特做外孩相西果走将月十实向声车全信重三机工物气每并别真打太新比才便夫"
    "再书部水像眼等体却加电主界门利海受听表德少克代员许先口由死安写性马光白或住难望教命花结乐色更拉东神记处让母父应直字场平报友"
    "关放至张认接告入笑内英军候民岁往何度山觉路带万男边风解叫任金快原吃妈变通师立象数四失满战远格士音轻目条呢病始达深完今提求清王"
    "化空业思切怎非找片罗钱紧吗语元喜曾离飞科言干流欢约各即指合反题必该论交终林请医晚制球决传画保读运及则房早院量苦火布品近坐产答"
    "星精视五连司巴奇管类未朋且婚台夜青北队久乎越观落尽形影红爸百令周吧识步希亚术留市半热送兴造谈容极随演收首根讲整式取照办强石古"
    "华谓拿计您装似足双妻尼转诉米称丽客南领节衣站黑刻统断福城故历惊脸选包紧争另建维绝树系伤示愿持千史谁准联妇纪基买志静阿诗独复痛"
    "消社算义竟确酒需单治卡幸兰念举仅钟怕共毛句息功官待究跟穿室易游程号居考突皮哪费倒价图具刚脑永歌响商礼细专黄块脚味灵改据般破引"
    "食仍存众注笔甚某沉血备习校默务土微娘须试怀料调广苏显赛查密议底列富梦错座参八除跑亮假印设线温虽掉京初养香停际致阳纸李纳验助激"
    "够严证帝饭忘趣支春集丈木研班普导顿睡展跳获艺六波察群皇段急庭创区奥器谢弟店否害草排背止组州朝封睛板角况曲馆育忙质河续哥呼若推"
    "境遇雨标姐充围案伦护冷警贝著雪索剧啊船险烟依斗值帮汉慢佛肯闻唱沙局伯族低玩资屋击速顾泪洲团圣旁堂兵七露园牛哭旅街劳型烈姑陈莫"
    "鱼异抱宝权鲁简态级票怪寻杀律胜份汽右洋范床舞秘午登楼贵吸责例追较职属渐左录丝牙党继托赶章智冲叶胡吉卖坚喝肉遗救修松临藏担戏善"
    "卫药悲敢靠伊村戴词森耳差短祖云规窗散迷油旧适乡架恩投弹铁博雷府压超负勒杂醒洗采毫嘴毕九冰既状乱景席珍童顶派素脱农疑练野按犯拍"
    "征坏骨余承置彩灯巨琴免环姆暗换技翻束增忍餐洛塞缺忆判欧层付阵玛批岛项狗休懂武革良恶恋委拥娜妙探呀营退摇弄桌熟诺宣银势奖宫忽"
    "套康供优课鸟喊降夏困刘罪亡鞋健模败伴守挥鲜财孤枪禁恐伙杰迹妹遍盖副坦牌江顺秋萨菜划授归浪听凡预奶雄升编典袋莱含盛济蒙棋端"
    "腿招释介烧误"
)

_ONSETS = ("b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "qu", "r",
           "s", "sh", "st", "t", "tr", "v", "w", "y", "z", "")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou", "ia", "y")
_CODAS = ("", "", "", "n", "m", "l", "r", "s", "t", "k", "x", "nd", "rt", "ck", "ng")


def made_up_word(rng: random.Random) -> str:
    """Return a random word of one to three syllables that looks English."""
    syllables = rng.choice((1, 2, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def name_en(rng: random.Random) -> str:
    """Return a random first name. Half of them are made up, so that the model learns to copy, not a list."""
    return rng.choice(NAMES_EN) if rng.random() < 0.5 else made_up_word(rng).capitalize()


def name_zh(rng: random.Random) -> str:
    """Return a random name for Chinese sentences: 王小明, a nickname, or a name in Latin letters."""
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(NICKNAMES_ZH) + rng.choice(GIVEN_ZH + SURNAMES_ZH)
    if kind < 0.3:
        return name_en(rng)
    return name_of_characters(rng)


def name_of_characters(rng: random.Random) -> str:
    """Return a random Chinese name, such as 王小明, or a given name alone."""
    given = "".join(rng.choice(GIVEN_ZH) for _ in range(rng.choice((1, 2, 2))))
    return (rng.choice(SURNAMES_ZH) if rng.random() < 0.8 else "") + given


def gibberish(rng: random.Random) -> str:
    """Return two to nine random lower-case letters."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 9)))


def characters(rng: random.Random, low: int, high: int) -> str:
    """Return `low` to `high` random Chinese characters; one in ten is any of U+4E00 to U+9FA5, for byte fallback."""
    return "".join(
        chr(rng.randint(0x4E00, 0x9FA5)) if rng.random() < 0.1 else rng.choice(CHARACTERS_ZH)
        for _ in range(rng.randint(low, high))
    )
