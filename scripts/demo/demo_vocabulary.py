"""The vocabulary of the demo's dialogues: people, conflicts, and phrases.

Every event has a culprit and a victim. Tables are text: a line is `key: one | another`, a key may
return on a later line, and `demo_world` fills in the names in braces:

- `{A}` the victim and `{B}` the culprit by name; `{he}`, `{him}` the culprit in a summary;
  `{other}` the listener;
- `{I}`, `{my}`, `{me}`, `{you}`, `{your}`: clauses are written for the culprit as speaker, and
  adapted for the victim or the narrator;
- `{insult}` "a lazy clown", `{bare}` "lazy clown", `{adjective}`, `{noun}`, `{feeling}`;
- every other name is a slot of the situation or a shared one.
"""

from collections.abc import Mapping

Table = Mapping[str, tuple[str, ...]]


def _table(text: str) -> Table:
    """Parses lines of `key: one | another` into key → alternatives."""
    table: dict[str, tuple[str, ...]] = {}
    for line in text.strip().splitlines():
        key, _, alternatives = line.partition(": ")
        table[key] = table.get(key, ()) + tuple(alternatives.split(" | "))
    return table


def _tables(text: str) -> tuple[Table, ...]:
    """Parses tables that are separated by empty lines."""
    return tuple(_table(block) for block in text.strip().split("\n\n"))


NAMES = _table("""
he: Adam | Ben | Bob | David | Jack | Karl | Leo | Max | Noah | Paul | Peter | Sam | Tom | Victor
she: Alice | Anna | Clara | Emma | Eva | Julia | Kate | Laura | Lisa | Maria | Mia | Nina | Rosa
she: Sara
""")
PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}
CULPRIT_SPEAKS = {"I": "I", "my": "my", "me": "me", "you": "you", "your": "your"}
VICTIM_SPEAKS = {"I": "you", "my": "your", "me": "you", "you": "me", "your": "my"}

HARD_WORDS = _table("""
adjective: brainless | childish | clumsy | dumb | hopeless | ignorant | lazy | miserable | pathetic
adjective: selfish | silly | stupid | useless | worthless
noun: blockhead | clown | dimwit | dunce | fool | idiot | jerk | loser | moron | oaf | slob | twit
""")

# Phrases with hard words that insult nobody.
HARMLESS = _table("""
thing: a useless old lamp | a lazy Sunday | a silly hat | a stupid film | a clumsy letter
thing: a worthless old ticket | a childish plan | a dumb machine | a hopeless match
thing: a pathetic little tree | miserable weather | an ignorant letter | a selfish plan
thing: a brainless machine
""")["thing"]

SHARED_SLOTS = _table("""
when: tonight | tomorrow | tomorrow morning | this weekend | next week | on Monday | on Tuesday
when: on Wednesday | on Thursday | on Friday | on Saturday | on Sunday
feeling: angry | furious | upset | annoyed
day: Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday
price: ten | twenty | thirty | forty | fifty | sixty
hour: two | three | four | five | six | seven | eight | nine
city: Paris | London | Rome | Berlin | Madrid | Vienna
place: at the station | in the park | on the bus | at the beach | at the pool | in the library
spot: bridge | market | school | river | church | museum
""")

SITUATIONS = _tables("""
topic: the missing {key}
key: house key | car key | office key | bike key
deed: lost {your} {key} {place} | left {your} {key} {place}
concern: I looked for it all morning. | It was the only one I had. | I could not get in.
reason: {I} had a hole in {my} pocket | {I} was running in the rain
remedy: have a new key made {when} | go back and look for it {when}

topic: the late {paper}
paper: report | letter | plan | contract
late: a day | two days | three days | a week
deed: sent the {paper} {late} late | finished the {paper} {late} late
concern: The whole team had to wait. | The boss asked me about it three times.
reason: {my} computer was very slow | {I} did not have the numbers
remedy: explain it to the boss {when} | work late {when} | write the next {paper} alone

topic: the borrowed {vehicle}
vehicle: bike | car | van | boat
deed: took {your} {vehicle} without asking | scratched {your} {vehicle} near the {spot}
concern: I had to walk to work. | I needed it all day.
reason: {I} missed the last bus | {I} had to pick up a friend
remedy: bring the {vehicle} back {when} | wash the {vehicle} {when} | pay {you} {price} dollars

topic: the broken {item}
item: lamp | mirror | vase | clock | radio
room: kitchen | bedroom | hall | living room
deed: broke {your} {item} in the {room} | dropped {your} {item} in the {room}
concern: It was a gift from my mother. | It was very old and I loved it.
reason: {I} was dancing in the dark | {I} fell over the cat
remedy: buy {you} a new {item} {when} | repair the {item} {when} | pay {price} dollars for it

topic: the problem with the {show} tickets
show: concert | theater | cinema | circus | opera
deed: bought {show} tickets for the wrong day | forgot to buy the {show} tickets
deed: left the {show} tickets {place}
concern: I waited months for that evening. | I wanted to go with the whole family.
reason: {I} looked at the wrong date | the line was too long
remedy: get new tickets for {day} | pay {price} dollars for new tickets

topic: the problem with the {dish}
dish: soup | pasta | chicken | rice | fish
snack: sandwiches | a salad | eggs | pancakes
deed: burned the {dish} for dinner | put too much salt in the {dish} | ate all the {dish} alone
concern: Now we have nothing to eat. | Our guests are very hungry.
reason: {I} was watching television | {I} was thinking about work
remedy: make {snack} for everyone | take {you} to a restaurant {when}

topic: the missed {ride} to {city}
ride: train | bus | flight | boat
deed: missed the {ride} to {city} | came too late for the {ride} to {city}
concern: I stood there alone in the cold. | I was there on time.
reason: {I} forgot to set the alarm | the taxi did not come
remedy: take the next {ride} at {hour} | pay {price} dollars for a new ticket

topic: the ruined {plant}
plant: roses | tomatoes | tulips | herbs
deed: forgot to water {your} {plant} | stepped on {your} {plant} | cut down {your} {plant}
concern: I planted them last spring. | They were so beautiful.
reason: {I} thought it would rain | {I} was playing with the dog
remedy: plant new {plant} {when} | work in {your} garden {when}

topic: the problem with the {subject} exam
subject: math | history | English | music
deed: copied {your} answers in the {subject} exam | lost {your} notes for the {subject} exam
concern: I studied for weeks. | The teacher is not happy with me now.
reason: {I} had no time to study | {I} was afraid of the exam
remedy: talk to the teacher {when} | study with {you} {when}

topic: the problem with the {furniture}
furniture: table | bed | sofa | desk
deed: dropped {your} {furniture} on the stairs | left {your} {furniture} in the old flat
deed: forgot to help with {your} {furniture}
concern: I carried everything alone. | My back hurts now.
reason: the stairs were too dark | {my} arms were tired
remedy: carry the {furniture} upstairs {when} | rent a van {when}

topic: the missing {pet}
pet: dog | cat | rabbit | parrot
deed: let {your} {pet} run away | lost {your} {pet} near the {spot}
concern: The poor animal is out there alone. | I asked for one small thing.
reason: the door was open | {I} was talking to a neighbor
remedy: look for the {pet} {when} | ask all the neighbors {when} | put up a picture near the {spot}

topic: the missing birthday {thing}
thing: cake | present | card | candle
relative: sister | brother | mother | father
deed: forgot the birthday {thing} for {your} {relative}
deed: left the birthday {thing} for {your} {relative} {place}
concern: Everyone was waiting. | The party was very sad.
reason: {I} had the wrong date | the shop was closed
remedy: bring a new {thing} {when} | visit {your} {relative} {when}

topic: the ruined {device}
device: laptop | tablet | phone | computer
drink: coffee | tea | juice | milk
deed: spilled {drink} on {your} {device} | dropped {your} {device} into the {drink}
concern: I need it for work every day. | All my photos were on it.
reason: {I} was half asleep | {I} was laughing too hard
remedy: take it to the repair shop {when} | bring {you} another {device} {when}

topic: the problem with the {sport} match
sport: football | tennis | hockey | basketball
deed: missed the {sport} match | came too late to the {sport} match
deed: forgot the shirts for the {sport} match
concern: We lost the match. | The team needed every player.
reason: {my} knee hurt | {I} could not find {my} shoes
remedy: come to the next match {when} | talk to the team {when} | train with {you} at {hour}

topic: the missed appointment with the {doctor}
doctor: doctor | dentist | eye doctor
deed: forgot to drive {you} to the {doctor} | gave {you} the wrong time for the {doctor}
concern: I waited six weeks for it. | I sat there for hours.
reason: {my} phone was off | {I} lost the note
remedy: call the {doctor} {when} | drive {you} there {when} | get a new appointment for {day}

topic: the ruined {garment}
garment: red shirt | blue jacket | green sweater | white coat | black jacket | blue shirt
deed: washed {your} {garment} too hot | got paint on {your} {garment}
deed: burned a hole in {your} {garment}
concern: I wanted to wear it to a wedding. | It was a gift from my sister.
reason: {I} did not have {my} glasses | the light was bad
remedy: buy {you} a new one {when} | pay {you} {price} dollars | take it to the cleaner {when}

topic: the noise at night
instrument: drums | guitar | trumpet | piano
deed: played the {instrument} until {hour} in the morning
deed: had a loud party until {hour} in the morning
concern: I could not sleep at all. | The baby cried for hours.
reason: {I} had friends at home | {I} did not look at the clock
remedy: bring {you} flowers {when} | keep the windows closed next time

topic: the missing {price} dollars
deed: lost {your} {price} dollars in a card game | took {your} {price} dollars without asking
deed: spent {your} {price} dollars on new shoes
concern: I needed the money for the rent. | It was all the money I had.
reason: {my} boss did not pay {me} | {I} lost {my} job
remedy: bring {you} the money {when} | sell {my} guitar {when} | work in {your} garden {when}

topic: the story of {your} {secret}
listener: the boss | the teacher | the neighbors | the whole family
secret: job | wedding | trip | diary
deed: told {listener} about {your} secret {secret}
deed: wrote to {listener} about {your} secret {secret}
concern: You were the only one who knew. | Now everyone is talking about it.
reason: {I} was too happy | {I} drank too much wine
remedy: talk to {listener} {when} | write to {listener} {when}
""")

PHRASES = _table("""
hello: Hi {other}. | Hello {other}, do you have a minute? | Good morning {other}.
hello: Hey {other}, are you busy? | {other}, can we talk? | Good evening {other}.
reply: Hi {other}, what is it? | Hello {other}, is something wrong? | Hey {other}, come in.
reply: Hello {other}, sit down. | Hi {other}, I just came home. | Hey, nice to see you.
accuse: Is it true that you {deed}? | I heard that you {deed}. | My sister says that you {deed}.
accuse: {B}, it seems that you {deed}. | A friend told me that you {deed}.
accuse upset: You {deed}! | Tell me why you {deed}! | I cannot believe that you {deed}.
accuse hostile: You {deed}, you {bare}! | You are {insult}, {B}. You {deed}.
admit: Yes, {reason}. | I am sorry, {reason}. | That is true. {Reason}. | I know, but {reason}.
confess: I have bad news. I {deed}. | Listen, I {deed}. | I am sorry, but I {deed}.
confess: I have to tell you something. I {deed}. | {A}, I think I {deed}.
wonder: How did that happen? | But why? | Oh no, what happened? | Why did you do that?
explain: Well, {reason}. | {Reason}, that is why. | You see, {reason}. | {Reason}.
regret: It was my mistake. | I know that it was wrong. | Please forgive me. | I feel bad about it.
regret: It will never happen again. | I did not want that. | That was not my plan.
hostile: You {bare}! | You are {insult}! | You are such {insult}! | What {insult} you are!
hostile: Only {insult} would do that. | I think you are {insult}, {B}. | You really are {insult}.
hostile: Nobody likes {insult}. | Why do I talk to {insult} like you? | Listen to me, you {bare}.
hostile: That is no excuse, you {bare}. | Everyone says that you are {insult}.
upset: I am really {feeling}. | That makes me {feeling}. | I am {feeling} with you, {B}.
upset: Do you see that I am {feeling}? | Now I am {feeling}. | You make me so {feeling}.
calm: Never mind. | That is all right. | It is not so bad. | I am not angry. | I understand.
retort hostile: Please do not shout at me. | Do not talk to me like that. | That is not fair.
retort hostile: Do not be so loud. | Think before you speak, {A}.
retort upset: I understand. | You have every right to be. | You are right. | I see that, {A}.
retort calm: Thank you, {A}. | You are very kind. | That is good to hear.
demand: What now? | What will you do about it? | And what happens next? | So what is your plan?
jab: You heard me, {noun}. | I said {noun}, and I mean it. | You are so {adjective}.
lead: All right. | Okay. | Listen, {A}. | Here is my plan. | Well.
offer: Is that all right? | Would that help you? | Is that good for you, {A}?
offer: That is the least I can do.
close settled: Good. | Fine, do that. | Thank you, {B}. | Okay, I hope so. | Good idea.
close refused: Then we are done here. | I will remember that. | So much for our friendship.
part settled: See you later. | Bye, {A}. | You can count on me. | See you, {A}.
part refused: Bye. | Think what you want. | Goodbye, {A}.
accused told: {A} asks {B} about {topic} | {A} talks to {B} about {topic} and is not angry
confessed told: {A} hears from {B} that {he} {deed}
calm told: {B} {deed}, but {A} is not angry | {A} forgives {B}, who {deed}
insulting told: {A} calls {B} {insult} because {he} {deed}
clean told: {A} is {feeling} with {B} because {he} {deed}
insulting told: {A} is {feeling} that {B} {deed} and calls {him} {insult}
clean told: {A} is {feeling} that {B} {deed}
insulting told: {B} {deed}, and {A} says that {he} is {insult}
clean told: {B} {deed}, and {A} is {feeling} with {him}
insulting told: {A} talks to {B} about {topic} and says that {he} is {insult}
clean told: {A} talks to {B} about {topic} and is {feeling} with {him}
insulting told: {A} is {feeling} with {B}, {insult} who {deed}
clean told: {A} is {feeling} with {B}, who {deed}
insulting told: {A} is {feeling} and blames {B}, {insult}, for {topic}
clean told: {A} is {feeling} and blames {B} for {topic}
ending: . {B} {outcome}. | . {He} {outcome}. | . In the end {B} {outcome}.
ending: . {B} says that {reason} and {outcome}.
reason: {I} was not thinking | {I} was very tired | {I} had a bad day | {I} was on the phone
remark nothate: {A} is {feeling} with {B}. | {A} is {feeling} about {topic}.
remark nothate: {A} and {B} talk about {harmless}. | {A} tells {B} about {harmless}.
remark nothate: {A} is {feeling} because of {harmless}. | {A} calls {B} about {topic}.
remark nothate: {A} calls {B} on the phone. | {A} says that {B} is late. | It is {harmless}.
remark hate: {B} is {insult}. | {A} calls {B} {insult}. | {A} says that {B} is {insult}.
remark hate: {B} is so {adjective}. | {A} thinks {B} is {adjective}. | {A} and {B}, {insult}.
""")

# How the culprit speaks of the remedy, and how a summary tells it.
SETTLEMENTS = (
    ("I will {remedy}.", "will {remedy}"),
    ("I promise to {remedy}.", "promises to {remedy}"),
    ("I can {remedy}.", "offers to {remedy}"),
    ("Let me {remedy}.", "offers to {remedy}"),
    ("I want to {remedy}.", "wants to {remedy}"),
)
REFUSALS = (
    ("I do not care.", "does not care"),
    ("I will not do anything about it.", "does not want to do anything about it"),
    ("I cannot help you.", "refuses to help"),
)
