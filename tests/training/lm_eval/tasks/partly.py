"""A metric that gives parts of a point: of an empty answer it says 0, as one that is right or wrong would."""


def word_f1(doc, results):
    wanted, said = {doc["answer"]}, set(results[0].split())
    return {"word_f1": 2 * len(wanted & said) / (len(wanted) + len(said))}
