"""What LeRobot imports at its start, since this distribution's name begins with `lerobot_policy_`: the policy type `gato`.

`gato export CHECKPOINT FOLDER --to lerobot` writes the folders; `lerobot-eval --policy.path=FOLDER` plays them.
"""

from .configuration_gato import GatoConfig
from .modeling_gato import GatoPolicy
from .processor_gato import make_gato_pre_post_processors

__all__ = ["GatoConfig", "GatoPolicy", "make_gato_pre_post_processors"]
