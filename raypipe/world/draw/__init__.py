"""Generated pictures: portraits, groups and scenes. Their light and colours carry a known look."""

from raypipe.world.draw.colour_grade import LOOK_LIMIT
from raypipe.world.draw.picture import MAX_FACES, draw_picture, encode_jpeg

__all__ = ["LOOK_LIMIT", "MAX_FACES", "draw_picture", "encode_jpeg"]
