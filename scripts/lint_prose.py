#!/usr/bin/env python3
"""Hold the words to the house's measure, so that a reader who does not speak English as a first language can follow.

usage: scripts/lint_prose.py [--docs | --src | --self-test]   (run by make lint)

In *.md and *.md.in, outside of headings, tables and code:
  - every sentence has a verb: at least one that is bent (is, claims, ended, must), or the imperative (Run …);
  - a sentence that begins with if, when, what or the like, or whose first verb stands behind that, which or who, has
    two: "A job that runs." is no sentence, "A job that runs is leased." is one;
  - no sentence has more than 45 words.
A list item is held to this when it ends with a full stop; without one it is a label. A bold lead ("**Locks.** …",
"**Look** – …") is a label, too. Text in backquotes is one word, and a noun.

A file or folder that they name or link to is there; and where ARCHITECTURE.md says "`FILE`, `NAME`", NAME is in FILE.

In src/**.rs: no doc comment begins with "What". Say what the item is or does: subject, verb, object.

No grammar is parsed: there is a list of verbs, their endings, and the words behind which a verb's form is a noun. Where
that is wrong about a right sentence, the sentence goes into scripts/lint_prose.allow as the message shows it, one a
line. A line there that no message needs is refused.
"""
import os
import re
import subprocess
import sys
import unittest

WORDS = 45
ALLOW = "scripts/lint_prose.allow"
# Made from another file, or not ours to word.
SKIP = {"charts/rowlock/README.md"}

# ---- Verbs ------------------------------------------------------------------------------------------------------

BENT = """
am is are was were isn aren wasn weren has have had hasn haven hadn do does did don doesn didn can cannot could couldn may
might must mustn shall should shouldn will won would wouldn let lets
came went gave took got made said told saw knew held kept left lost found met sent spent stood thought understood wrote
began broke chose drew fell felt grew heard led meant paid ran sat slept spoke threw won brought built bought caught dealt
froze lay lent rose sold sought struck swore taught wore drove flew forgot hid overran withdrew ate bound
""".split()

BASE = """
accept abandon access act add adopt aggregate agree aim alert allow alter analyse announce answer appear append apply approve arise arrive ask
assign assume attach attend avoid await awake back be bear beat become begin behave believe belong bind block bound break
bring build bump buy call cancel care carry catch cause change charge check choose claim clean clear close collect come
commit compare compile complain complete configure confirm connect consider consist consume contain continue control
convert copy correct cost count cover crash create cross cut deal decide declare decline decrease delay delete deliver
demand deny depend deploy derive describe detach die differ disable disappear discard disconnect do double drain draw
drive drop edit embed emit empty enable encrypt end enforce enqueue enter equal escape evict examine exceed execute exist
exit expand expect expire explain export extend fail fall feed fetch fill find finish fire fit fix flow fold follow forbid
force forget forward freeze get give go grant group grow guard guarantee guess handle hang happen hear help hide hint hold hurry
identify ignore imply import include increase inform inherit insert inspect install intend invent invoke join judge jump
keep kill know label lack last launch lead learn lease leave let lie like limit link list listen live load lock log look
lose lower maintain make manage map mark match matter mean measure meet mend merge migrate miss mistake mount move name
need notice notify obey observe occur offer omit open order outlive override own pack parse pass pause pay perform pick
pin place plan play point poll post prefer prepare prevent print proceed produce promise promote prove provide prune
publish pull push put query quit raise reach react read rebase rebuild receive recognise recommend reconcile reconnect
record recover reduce refer refuse register reject release rely remain remember remove rename render renew repeat replace
reply report represent request require rescue reserve resign resist resolve respect restart restore result resume retain
retry return reuse revoke rewrite ride roll rotate run satisfy save say scale scan schedule scrape search see seem select
send separate serve set settle share show shrink sign silence sit skip sleep slow solve sort speak specify spell spend
spin split spread stack stand start state stay step stick stop store stretch strike subscribe suffer suffice suggest
supply support suppose survive sweep swap switch take talk tell tend terminate test think throw tie time trace track
translate travel treat trigger truncate trust try turn type unlock update upgrade use validate vanish vary verify view
visit wait wake walk want warn watch wear weigh win wish withdraw work worry write yield
""".split()

# Forms that are nouns as often: verbs only where no determiner, preposition or sentence start says noun.
OPENERS = set("""
if when whenever while where wherever what whatever who whoever which whichever because although unless until once since
""".split())
RELATIVES = {"that", "which", "who", "whose"}
# Behind these a form of a verb is a noun or an infinitive.
NOUN_BEHIND = set("""
a an the this these those its their his her our your my no each every any some another either neither such
of in on at by for with without from into onto over under between beside during through to per via
than as like about against beyond
one two three four five six seven eight nine ten first second third last next same other own new old only-a
""".split())


PREPOSITIONS = set("of in on at by for with without from into onto over under between to per via than as and or".split())


def forms():
    """Each form that is bent: base (plural, imperative), -s, -ed."""
    found = set(BENT)
    for verb in BASE:
        found.add(verb)
        if re.search(r"(s|x|z|ch|sh|o)$", verb):
            found.add(verb + "es")
        elif re.search(r"[^aeiou]y$", verb):
            found |= {verb[:-1] + "ies", verb[:-1] + "ied"}
        else:
            found.add(verb + "s")
        if verb.endswith("e"):
            found.add(verb + "d")
        else:
            found.add(verb + "ed")
            if re.search(r"[^aeiou][aeiou][bdglmnprt]$", verb):
                found.add(verb + verb[-1] + "ed")
            if verb.endswith("l"):
                found.add(verb + "led")
    return found


FORMS = forms()
# Bent forms that are never anything else: they count wherever they stand.
SURE = set("""
am is are was were isn aren wasn weren has have had hasn haven hadn does did don doesn didn can cannot could couldn may
must mustn shall should shouldn won would wouldn
""".split())


def verbs(words):
    """The places of the bent verbs in a sentence of lower-case words."""
    found = []
    for place, word in enumerate(words):
        if word in SURE or (word == "will" and place):
            found.append(place)
        elif word in FORMS:
            before = words[place - 1] if place else None
            if before is None:
                # The imperative; or a description without its subject, as "Adds a job": "Claims of a worker" is none.
                behind = words[place + 1] if place + 1 < len(words) else "."
                if not word.endswith("s") or word in BASE or behind.isalpha() and behind not in PREPOSITIONS:
                    found.append(place)
            elif before not in NOUN_BEHIND or before == "one" and words[place - 2:place - 1] in (["another"], ["this"], ["new"]):
                found.append(place)
    return found


def verdict(sentence):
    """Why a sentence is refused, or None."""
    words = [w.lower() for w in re.findall(r"[A-Za-z][A-Za-z-]*|[,;:()–—]", sentence)]
    count = len(re.findall(r"\S*\w\S*", sentence))
    if count > WORDS:
        return f"{count} words, {WORDS} at most: make two sentences of it"
    while words and not words[0].isalpha() and "-" not in words[0]:
        words.pop(0)
    if not [word for word in words if word[0].isalpha() and word not in ("x", "rl", "and", "to", "or")]:
        return None  # codes and numbers: a list
    if re.match(r"RL\d", sentence):
        return None  # SQLSTATEs behind a description
    found = verbs(words)
    if not found:
        return "no verb"
    question = sentence.rstrip("*_)\"”").endswith("?")
    behind = any(word in RELATIVES and (word != "that" or words[place] not in NOUN_BEHIND)
                 for place, word in enumerate(words[1:found[0]]))
    opener = words[0] in OPENERS and words[1:2] != ["then"] and not question
    if (behind or opener) and len(found) < 2:
        return "only the verb of a part of it: the sentence itself has none"
    return None


# ---- Markdown ---------------------------------------------------------------------------------------------------

ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
SHORT = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|No)\.$")


def blocks(text):
    """(line, whether it is a list item, text) of each paragraph and list item."""
    start, kind, lines, fence = 0, False, [], None

    def done():
        nonlocal lines
        joined, lines = " ".join(lines), []
        return (start, kind, joined)

    comment = False
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if fence:
            if bare.startswith(fence):
                fence = None
            continue
        opened = re.match(r"(```+|~~~+)", bare)
        if comment or bare.startswith("<!--"):
            comment = "-->" not in bare
            continue
        if opened or not bare or bare[0] in "|#" or re.fullmatch(r"[-=*_ ]{3,}", bare) or bare.startswith("[!["):
            if lines:
                yield done()
            fence = opened[1] if opened else None
            continue
        if not lines and line.startswith(("    ", "\t")) and not kind:
            continue  # indented code
        item = ITEM.match(line)
        if item and lines:
            yield done()
        if not lines:
            start, kind = number, bool(item)
        lines.append(line[item.end():].strip() if item else bare.lstrip("> "))
    if lines:
        yield done()


def plain(text):
    """Markdown without its marks. Code is one noun."""
    text = re.sub(r"(`+)(.+?)\1", "X", text)
    text = re.sub(r"!?\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"<(https?:[^>]*)>", "X", text)
    return text


def sentences(text, item):
    text = plain(text).strip().removesuffix("\\").rstrip()
    lead = re.match(r"\*\*[^*]+\*\*\s*(?:[-–—:]\s*)?", text)
    if lead and (re.search(r"[.:?!]\*\*|[-–—:]\s*$", lead[0]) or item and lead[0].strip() == text):
        text = text[lead.end():]
    text = text.replace("**", "")
    # Links in a row are a list, not a sentence.
    if " · " in text:
        return
    # A hard break: what stands before it is a line of its own, such as a signature.
    broken = text.split("\\ ", 1)
    if len(broken) == 2:
        yield from sentences(broken[0], item)
        yield from sentences(broken[1], item)
        return
    if item and not re.search(r"[.!?][)\"”*_]*$", text):
        return
    part = ""
    for piece in re.split(r"(?:(?<=[.!?])|(?<=[.!?][)\"”]))(?=\s+[(\"“]*[A-Z0-9])", text):
        part += piece
        if not SHORT.search(part):
            yield part.strip()
            part = ""
    if part.strip():
        yield part.strip()


def docs(files, allowed):
    used = set()
    for file in files:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
        for line, item, block in blocks(text):
            for sentence in sentences(block, item):
                why = verdict(sentence)
                if why and sentence in allowed:
                    used.add(sentence)
                elif why:
                    yield f"{file}:{line}: {why}: {sentence}"
    for sentence in sorted(allowed - used):
        yield f"{ALLOW}: nothing needs this line any more: {sentence}"


TOP = r"(?:src|schema|migrations|docs|scripts|tests|examples|charts|manifests|monitoring|clients)"


def named(files):
    """What the documents name and is not there."""
    for file in files:
        with open(file, encoding="utf-8") as opened:
            lines = opened.read().split("\n")
        folder = os.path.dirname(file)
        for number, line in enumerate(lines, 1):
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", line):
                if not os.path.exists(os.path.join(folder, link)):
                    yield f"{file}:{number}: links to {link}, which is not there"
            for path in re.findall(rf"`({TOP}/[\w./-]*)`", line):
                if not os.path.exists(path) and not os.path.exists(os.path.join(folder, path)):
                    yield f"{file}:{number}: names {path}, which is not there"
        for path, names in re.findall(r"`((?:src|schema)/[\w./-]+)`, ((?:`[\w:]+`(?:, | and )?)+)", "\n".join(lines)):
            if os.path.isfile(path):
                with open(path, encoding="utf-8") as opened:
                    text = opened.read()
                for name in re.findall(r"(\w+)`", names):
                    if not re.search(rf"\b{name}\b", text):
                        yield f"{file}: says that {name} is in {path}, where it is not"


def source(files):
    for file in files:
        with open(file, encoding="utf-8") as opened:
            before = False
            for number, line in enumerate(opened, 1):
                doc = re.match(r"\s*//[/!](?!/)\s?(.*)", line)
                if doc and not before and re.match(r"What\b", doc[1]):
                    yield f'{file}:{number}: a doc comment begins with "What": {doc[1].strip()}'
                before = bool(doc)


# ---- Its own tests ----------------------------------------------------------------------------------------------


class Tests(unittest.TestCase):
    def test_sentences_with_a_verb_pass(self):
        for sentence in ("A worker claims jobs.", "Jobs run.", "Run it again.", "It must not.", "Who may create Pods may mount X.",
                         "A worker that lost its lease is refused.", "If the lease ends, the job stops.", "Is it there?",
                         "Which of them may go?", "The queue isn't paused.", "Nobody works it.", "X refuses it.", "Adds a job in X.", "RL032 for the status.", "For that, the job ends.", "If you are new, read it.", "If it ends, another one takes over.", "Until then it waits.",
                          "The values below use it.", "RL010 to RL012, and X."):
            self.assertIsNone(verdict(sentence), sentence)

    def test_sentences_without_one_do_not(self):
        for sentence in ("A Pod per job.", "One rule for all.", "The claims of a worker.", "Without a database.", "A job that runs.",
                         "What a worker holds.", "When the lease ends.", "Results of the run, by type."):
            self.assertIsNotNone(verdict(sentence), sentence)

    def test_long_sentences_do_not(self):
        self.assertIn("46 words", verdict("It is " + "so " * 43 + "long."))

    def test_markdown_is_read_as_people_read_it(self):
        text = "# No verb here\n\nOne is\nhere. Two, e.g. this,\nare `not. Three`.\n\n```sh\nno verb.\n```\n| no | verb. |\n\n" \
               "- a label\n- **Lead.** It is one.\n  And more of it.\n1. Ends here.\n\n<!-- no\nverb. -->\n"
        found = [s for line, item, block in blocks(text) for s in sentences(block, item)]
        self.assertEqual(found, ["One is here.", "Two, e.g. this, are X.", "It is one.", "And more of it.", "Ends here."])
        self.assertEqual([line for line, _, _ in blocks(text)], [3, 12, 13, 15])

    def test_a_hard_break_ends_a_label(self):
        self.assertEqual(list(sentences("`f(a) → b`\\ It is one.", True)), ["It is one."])

    def test_a_lead_without_a_stop_is_part_of_the_sentence(self):
        self.assertEqual(list(sentences("**Enqueue** beside your write.", False)), ["Enqueue beside your write."])


def main():
    which = sys.argv[1:] or ["--docs", "--src"]
    if not set(which) <= {"--docs", "--src"}:
        sys.exit("usage: scripts/lint_prose.py [--docs | --src | --self-test]")
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--", "*.md", "*.md.in", "src/*.rs"],
                            check=True, capture_output=True, text=True).stdout.split("\n")
    files = sorted(file for file in set(listed) - SKIP if file and os.path.exists(file))
    allowed = set()
    if os.path.exists(ALLOW):
        with open(ALLOW, encoding="utf-8") as opened:
            allowed = {line.strip() for line in opened if line.strip() and not line.startswith("#")}
    found = []
    if "--docs" in which:
        documents = [file for file in files if not file.endswith(".rs")]
        found += [*docs(documents, allowed), *named(documents)]
    if "--src" in which:
        found += source([file for file in files if file.endswith(".rs")])
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print(f"lint_prose: {len(found)} places break the rules for words (CONTRIBUTING.md)", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        unittest.main(argv=sys.argv[:1])
    sys.exit(main())
