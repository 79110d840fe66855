"""Finished chats and judgements that prompts show as earlier turns.

A small model follows an example better than a description. The chats are about other subjects than
those of most users, so that copies are conspicuous. A run counts them as duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass

Message = dict[str, str]


@dataclass(frozen=True)
class Demonstration:
    """A request for a chat, and its turns. A prompt shows as many turns as it asks for."""

    task: str
    topic: str
    persona: str
    style: str
    turns: tuple[Message, ...]


@dataclass(frozen=True)
class JudgedChat:
    """A chat with one turn, and its judgement."""

    task: str
    user: str
    assistant: str
    helpful: bool
    score: int


def _turn(user: str, assistant: str) -> Message:
    return {"user": user, "assistant": assistant}


DEMONSTRATIONS = (
    Demonstration(
        "Visitors of a museum ask about their visit.",
        "opening hours",
        "a busy manager who wants a short answer",
        "a direct question",
        (
            _turn(
                "What time does the museum open on Sundays?",
                "The museum opens at 10 a.m. on Sundays and closes at 5 p.m. The last entry is at "
                "4:30 p.m.",
            ),
            _turn(
                "Is it quieter in the morning?",
                "Yes. Before noon there are few visitors. It is busiest from 2 p.m. to 4 p.m.",
            ),
        ),
    ),
    Demonstration(
        "Guests of a hotel ask the reception for help.",
        "breakfast",
        "a customer who is frustrated",
        "a question with some background",
        (
            _turn(
                "I leave at 6 a.m., but breakfast starts at 7. Can I still get something to eat?",
                "I am sorry about that. We can bring a cold breakfast to your room from 5 a.m. "
                "Please order it by 10 p.m. this evening.",
            ),
            _turn("Does it cost extra?", "No, it is included in the price of your room."),
        ),
    ),
    Demonstration(
        "People ask for help with their garden.",
        "tomatoes",
        "a beginner who has never done this",
        "a request for an explanation",
        (
            _turn(
                "How often should I water my tomato plants?",
                "Water them two or three times a week, in the morning, and more often when it is "
                "hot. Keep the leaves dry, because wet leaves become ill.",
            ),
            _turn(
                "Why in the morning?",
                "The soil is cool then, so less water is lost, and the plants have it during the "
                "heat of the day.",
            ),
        ),
    ),
    Demonstration(
        "Users of a camera ask its maker.",
        "batteries",
        "a careful person who checks facts",
        "a short question of a few words",
        (
            _turn(
                "How long does one battery last?",
                "A full battery lasts for about 400 pictures. Turn the screen off when you do not "
                "need it, and it lasts longer.",
            ),
            _turn(
                "And in the cold?",
                "Below 0 degrees it lasts for about half as many. Keep a spare one in a warm "
                "pocket.",
            ),
        ),
    ),
)

JUDGED = (
    JudgedChat(
        "Guests ask a hotel.",
        "Can I get breakfast before 6 a.m.?",
        "Yes. We bring a cold one to your room from 5 a.m. Order it the evening before.",
        helpful=True,
        score=9,
    ),
    JudgedChat(
        "Visitors of a museum ask about it.",
        "What time does it open on Sundays?",
        "I like museums.",
        helpful=False,
        score=3,
    ),
    JudgedChat(
        "People ask about their garden.",
        "How often should I water tomatoes?",
        "Two or three times a week, in the morning. Keep the leaves dry.",
        helpful=True,
        score=9,
    ),
)
"""Judgements that prompts of the judge show. Long ones cost each attempt, and two of three are
helpful, because small models otherwise reject nearly everything."""
