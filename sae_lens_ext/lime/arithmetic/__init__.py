"""The arithmetic task: expressions modulo a prime, worked out step by step."""

from sae_lens_ext.lime.arithmetic.accuracy import arithmetic_accuracy as arithmetic_accuracy
from sae_lens_ext.lime.arithmetic.chains import count_expressions as count_expressions
from sae_lens_ext.lime.arithmetic.examples import ArithmeticExamples as ArithmeticExamples
from sae_lens_ext.lime.arithmetic.examples import arithmetic_examples as arithmetic_examples
from sae_lens_ext.lime.arithmetic.result import ArithmeticAccuracy as ArithmeticAccuracy
from sae_lens_ext.lime.arithmetic.vocabulary import ArithmeticVocabulary as ArithmeticVocabulary
