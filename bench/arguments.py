"""What the scripts of this folder accept on their command lines."""
import argparse


def number(kind, least):
    """A type of an argument: a number of this kind, at least `least`."""
    def parse(text):
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} given; at least {least} is accepted")
        return value
    return parse
