#!/bin/sh
# What `make demo` runs: every line that starts with $ is a command you can type yourself.
set -e
gato() {
    echo
    echo "\$ gato $*"
    "$BIN/python" -m gato.cli "$@"
}

echo "== real data: experts act, captioned drawings, dictionary text"
gato data collect gymnasium/cartpole gymnasium/mountain-car-continuous gymnasium/pendulum --episodes 200 --workers 2
gato data collect gymnasium/lunar-lander --episodes 600 --workers 2
gato data collect babyai/go-to-local --episodes 4500 --workers 2
gato data collect babyai-view/go-to-local --episodes 6000 --noisy_share 0 --workers 2
gato data import pictures samples/pictures.parquet --splits train unseen_picture unseen_concept
gato data import text samples/text.parquet --splits train test
gato tokenizer train pictures/train text/train babyai-view/go-to-local babyai/go-to-local --size 2048

echo
echo "== one model learns all of it"
gato pretrain demo

echo
echo "== it acts in environments, captions pictures it never saw, and writes"
gato eval runs/demo/final --ablations true --films true --episodes 100 --num_envs 100 --captions pictures/unseen_picture pictures/unseen_concept \
    --prompts "dog:" "river:" "music:"
gato plot runs/demo

echo
echo "== it learns a task it never saw, from ten demonstrations (two more say when to stop), beside a plain network that does"
gato data collect gymnasium/lunar-lander-continuous --episodes 12 --workers 2
gato finetune runs/demo/final --data gymnasium/lunar-lander-continuous --env gymnasium/lunar-lander-continuous --episodes 10 \
    --modes full clone --held_out 2 --rollouts 30
