# ruff: noqa: E501 (a passage a line)
"""Prompts of the three domains, 34 each: maths from held-out templates, code and prose written for these tests."""

from dspark_lab.train.problems import problems

A_DOMAIN = 34

FUNCTIONS = """
count_words(text): Return a dictionary from each word of the text to how often it occurs.
read_lines(path): Read a text file and return its lines without the line ends.
is_palindrome(word): Return true if the word reads the same backwards.
flatten(lists): Flatten a list of lists into one list.
clamp(value, low, high): Return the value, or the nearer limit if it lies outside.
parse_header(line): Split a header line into its name and its value.
close(self): Close the connection and release the lock.
merge(left, right): Merge two sorted lists into one sorted list.
save(self, path, mode='w'): Write the settings to a file.
find_index(items, item): Return the index of the item, or -1 if it is not there.
mean(values): Return the arithmetic mean of the values.
strip_comments(source): Remove the comments from Python source.
add_option(self, name, default=None): Add an option with a default value.
unique(items): Return the items in order, each of them once.
to_hex(data): Return the bytes as a hexadecimal string.
walk(node, visit): Call visit on the node and on all its children.
get(self, key, default=None): Return the value for the key, or the default.
is_leap(year): Return true if the year is a leap year.
chunks(data, size): Yield the data in pieces of the given size.
__repr__(self): Return a string that shows the class and its fields.
join_paths(root, *parts): Join the parts of a path with slashes.
send(self, message, timeout=None): Send a message and wait for the answer.
transpose(matrix): Swap the rows and columns of a matrix.
quote(text, safe='/'): Replace special characters in the text by escapes.
load_module(name, path): Import a module from a file and return it.
fibonacci(n): Return the first n Fibonacci numbers.
pop(self): Remove the last element and return it, or raise IndexError.
escape(text): Replace the characters that mean something in HTML.
median(values): Return the middle value of the sorted data.
has_cycle(graph): Return true if a directed graph contains a cycle.
reset(self): Clear the buffer and start again.
decode_line(line, encoding='utf-8'): Decode a line of bytes and strip its end.
rotate(items, steps): Move the first items to the end of the list.
test_empty(self): Test that an empty list gives an empty result.
"""

PASSAGES = """
The ferry was late that morning, and those who had come early stood about the landing with their collars up. No one spoke.
My fellow citizens, the year behind us has been one of labour and of peace. Our harvests were full, and our debts are smaller.
The old harpooner sat down upon the cask and filled his pipe. He had seen four oceans, he said, and trusted none of them.
We were nine days out when the wind left us. The sails hung like washing, and the pitch grew soft between the planks.
The committee has considered the request for a new bridge. It finds the crossing to be of great use to the farms on both banks.
There was a lamp in the upper window, and it burned all night. By morning the oil was gone and so was my uncle.
It is the duty of this government to deal justly with every nation, and to ask for nothing that it would not itself grant.
The whale rose a quarter of a mile to leeward. For a moment nobody moved; then every man ran for the boats at once.
She kept the letters in a tin box beneath the stairs. On Sundays she took them out, counted them, and put them back unread.
The roads of the western counties are in poor repair. In wet weather a loaded waggon takes three days where one should do.
Nothing could be seen of the island but a grey line. The captain looked at it through his glass and shook his head slowly.
Our revenue has exceeded our spending for the second year. I recommend that the difference be used to lessen the public debt.
The miller's dog would not cross the stream. It sat on the bank and howled, and the miller threw stones at it, which did no good.
At noon the mate took the height of the sun and wrote it on a slate. We were farther south than any of us had thought.
Peace has been kept upon our borders. The treaties made last spring are observed, and commerce with our neighbours grows.
The shopkeeper weighed the sugar twice. He was an honest man, but he liked to be seen at it.
In the cabin there was a smell of tar and of wet wool. Two men slept; the third was carving a bird from a piece of bone.
The building of ships must not be neglected. A long coast without a navy is a house whose door is never locked.
Snow fell on the Tuesday and did not stop until the week was out. We dug a passage to the barn and fed the horses by candle.
The stranger ate everything that was set before him. Only when the plates were bare did he tell us whose son he was.
I have often watched the gulls follow a ship for days. What they hope for I cannot say, since we gave them very little.
The schools of the new states deserve our help. A people that reads will not long be governed badly.
A rope parted in the night, and we lost the smaller boat. The cook, who had slept in it, complained of this until Cadiz.
The judge was deaf in one ear, and turned it to whichever side was speaking longer. His verdicts were thought very fair.
From the hill one could see both rivers. They ran side by side for a mile, as if each were waiting for the other to speak.
The mint has struck more silver this year than last. The price of bread, however, has not fallen, and the poor feel it.
He had a wooden chest with iron corners, and he would let no man carry it. What was in it we learned only at the end.
The fog came in over the flats, and with it the sound of bells. We dropped the anchor and waited for the tide to turn.
The law upon patents is in want of reform. Those who invent are often poor, and the courts are far from their workshops.
My grandmother could tell the weather from the smoke of the chimney. She was wrong about as often as other people.
The crew were from every country under the sun. They quarrelled in six languages and sang in one.
Our forts along the river are old, and the walls of two of them have fallen. I ask the Congress to provide for their repair.
The garden had run wild since the spring. There were roses in the path, and a thrush had built in the watering can.
When the storm was over we counted the barrels. There were eleven left, and one of these, we found, was full of sea water.
"""


def domain_prompts():
    """Domain -> its prompts (strings, put into the chat template by ``generate``): 34 each, always the same ones."""
    calls = [line.split(": ", 1) for line in FUNCTIONS.strip().split("\n")]
    return {
        "math": [worked.problem for worked in problems(A_DOMAIN, "lossless", heldout=True)],
        "code": [f"Write the Python function `{head}`. {summary}" for head, summary in calls],
        "prose": [f"Continue this passage: {passage}" for passage in PASSAGES.strip().split("\n")],
    }
