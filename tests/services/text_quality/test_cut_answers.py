"""Precision and recall of the search for cut answers, on short labelled answers."""

from __future__ import annotations

import pytest

from services.text_quality.answers import is_cut

CUT = (
    "Your order has been shipped and the",
    "You can return the item within 30 days because",
    "Our office is open from Monday to Friday. On Saturdays we are only available by",
    "The parcel leaves our warehouse today. It then goes to the nearest",
    "We ship to Germany, France, Spain, and",
    "We ship to Germany, France, Spain,",
    "Yes. Please open the settings. There you can choose between two",
    "Photosynthesis is the process that turns the",
    "To reset it, hold the button for ten seconds. After that the lamp",
    "The capital of France is Paris. It lies on the Seine and has about two million",
    "I recommend the blue one, since it fits your",
    "1. Open the app\n2. Choose the language and the",
    "Here is the function:\n```python\ndef add(a, b):\n    return a +",
    "Here it is:\n```",
    "Wir liefern innerhalb von drei Tagen und",
    "Das Paket ist unterwegs. Es wird morgen bei Ihnen",
    "Nous livrons en France et dans les",
    "Puede devolver el producto en una de las",
    "The invoice was paid in March. The refund will be sent to your",
    "The weather was cold. We stayed inside all day, although",
    "She opened the door, looked around the room,",
    "The study covers ten years. Its results suggest that older people who",
    "Water boils at 100 degrees at sea level. On a high mountain it boils",
    "The delivery takes three to five working days in most",  # without a sign of its end
    "Sure! We can change the address as long as the parcel is",
)

WHOLE = (
    "Yes",
    "I do not know which is which",
    "There is nothing in between",
    "42",
    "positive",
    "3.14 meters",
    "The answer is a",
    "Paris, France",
    "The Great Gatsby",
    "The Lord of the Rings: The Return of the King",
    "How to bake bread at home without an oven",
    "Customer asks for a refund of a late order",
    "Who knew? The truth about sugar in drinks",
    "apples, pears, plums",
    "red, green, blue, yellow, black, white",
    "- milk and bread\n- two apples from the garden\n- a bag of rice for the week",
    "1. Open the app. Then choose a new language\n2. Close the app. Then open it again later",
    "a) The first one. It has the most green leaves",
    "| name | age |\n| Anna | of the cats |",
    "# The history of the bridge. And of its many builders",
    "for x in range(10): print(x)",
    "SELECT name FROM users WHERE age > 30 ORDER BY name",
    "x = a and b or c",
    "```python\nprint(1)\n```",
    "Use ``` to open a code block in Markdown.",
    "git commit -m 'update the docs'",
    '{"name": "Anna", "age": 30}',
    "[1, 2, 3]",
    '{"text": "It is late. We are all going home now"}',
    "https://example.com/a/b",
    "See the page of the project. https://example.com/the/long/way",
    "The parcel arrives tomorrow.",
    "Is it open?",
    'He said: "It is late."',
    "We are happy to help (see above).",
    "Dear Anna,\nthe parcel is on its way.\nBest regards,\nBen",
    "Thank you for your message.\nYour team at the old bridge",
    "Roses are red\nViolets are blue\nSugar is sweet\nAnd so are you",
    "The office of Dr. Smith in the main hospital",
    "Use approx. two cups of flour for the dough",
    "Ich rufe dich morgen an",
    "Il a marqué un but",
    "C'est une bague en or",
    "これは本です",
    "我们明天发货",
    "我们明天发货。请您在家等候",
    "สวัสดี ครับ ผม ชื่อ สมชาย ยินดี ที่ ได้ รู้จัก คุณ ใน วันนี้ " * 4,
    "ខ្ញុំ ទៅ ផ្សារ ថ្ងៃនេះ ជាមួយ មិត្ត របស់ ខ្ញុំ ពីរ នាក់ " * 5,
    "यह एक किताब है।",
    "هذا كتاب",
    "The temperature today in Berlin is. 21 degrees",
    "Paris. The city of Light",
    "Total: 12 items for 30 dollars",
    "The recipe needs salt.\n- one more item with more than eight words in this list" + " now" * 40,
)

LEAST_RECALL = 0.9


def test_most_cut_answers_are_found() -> None:
    missed = [each for each in CUT if not is_cut(each)]
    assert 1 - len(missed) / len(CUT) >= LEAST_RECALL, missed


@pytest.mark.parametrize("answer", WHOLE)
def test_a_whole_answer_is_not_taken_for_a_cut_one(answer: str) -> None:
    assert not is_cut(answer.strip())
