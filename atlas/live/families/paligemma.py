"""PaliGemma: the prompt's tokens see each other in both directions, those of the answer only what is before them."""

from atlas.live.families._family import Family

FAMILY = Family(token_types=("token_type_ids",), answer_type=1)
