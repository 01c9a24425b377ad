"""English function words: the default list of token importance by content words.

Closed classes only (articles, prepositions, conjunctions, pronouns, auxiliaries, particles); a noun, a verb or an
adjective with a meaning of its own is not here. Knows nothing of tokenizers.
"""

_WORDS = """
a an the this that these those each every either neither some any no all both such another other
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
we us our ours ourselves they them their theirs themselves one ones oneself
who whom whose which what whoever whatever whichever someone somebody something anyone anybody anything
everyone everybody everything nobody nothing none
about above across after against along among amid around as at before behind below beneath beside besides
between beyond by concerning despite down during except for from in inside into like near of off on onto out
outside over past per regarding since through throughout till to toward towards under underneath until unto up
upon via with within without
and but or nor so yet if unless because although though while whereas whether than once when whenever where
wherever why how lest
am is are was were be been being have has had having do does did doing done
can could may might must shall should will would ought need dare
not n't 's 're 've 'll 'd 'm 't
there here then thus hence also too very just only even ever never again still already else rather quite
"""

ENGLISH_FUNCTION_WORDS: frozenset[str] = frozenset(_WORDS.split())
