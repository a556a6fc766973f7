#!/bin/sh
# Control data for the recipe `reference`, small enough for a laptop: experts of six suites act, a quarter of the episodes noisy.
#     pip install 'opengato[suites]' && sh samples/reference_control.sh
# Stores go to $GATO_HOME/stores. It can be stopped and started again: what is there is kept, and no episode is stored twice.
# BabyAI is symbolic: all levels that JAT reports but the two held out, and two dozen others; go-to-local as pixels too.
collect() { # FAMILY EPISODES NOISY_SHARE NAME...; a task that fails is named at the end, and the others are collected
    family=$1 episodes=$2 noisy=$3
    shift 3
    nice -n 10 "${PYTHON:-python}" -m gato.cli data collect $(printf "$family/%s " "$@") --episodes "$episodes" --noisy_share "$noisy"
}

collect metaworld 40 0.25 basketball bin-picking button-press-topdown button-press-topdown-wall button-press button-press-wall \
    coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open door-unlock drawer-close faucet-close \
    faucet-open hand-insert handle-press-side handle-press handle-pull-side handle-pull lever-pull peg-insert-side peg-unplug-side \
    pick-out-of-hole pick-place pick-place-wall plate-slide-back-side plate-slide-back plate-slide-side plate-slide push-back push \
    push-wall reach reach-wall shelf-place soccer stick-pull stick-push sweep-into sweep window-close window-open

collect babyai-symbolic 400 0.25 action-obj-door blocked-unlock-pickup boss-level boss-level-no-unlock find-obj-s5 go-to go-to-door \
    go-to-imp-unlock go-to-local go-to-obj go-to-obj-door go-to-red-ball go-to-red-ball-grey go-to-red-ball-no-dists \
    go-to-red-blue-ball go-to-seq key-corridor mini-boss-level move-two-across-s8-n9 one-room-s8 open open-door open-doors-order-n4 \
    open-red-door open-two-doors pickup pickup-above pickup-loc synth synth-loc synth-seq unblock-pickup unlock unlock-local \
    unlock-pickup unlock-to-unlock
collect babyai-symbolic 400 0.25 go-to-obj-s4 go-to-obj-s6 go-to-local-s5-n2 go-to-local-s6-n3 go-to-local-s7-n4 go-to-local-s8-n2 \
    go-to-obj-maze-s4-r2 go-to-obj-maze-s4 go-to-seq-s5-r2 go-to-open open-door-color open-door-loc open-doors-order-n2 pickup-dist \
    unlock-local-dist unlock-pickup-dist key-corridor-s3-r1 key-corridor-s3-r2 key-corridor-s3-r3 one-room-s12 move-two-across-s5-n2 \
    find-obj-s6
collect babyai 1000 0.25 go-to-local
collect babyai-view 2000 0 go-to-local

collect gymnasium 100 0.25 acrobot cartpole frozen-lake mountain-car mountain-car-continuous pendulum
collect gymnasium 200 0.25 lunar-lander taxi
collect mujoco 50 0.25 inverted-pendulum reacher
collect dm-control 50 0.25 cartpole-balance cartpole-balance-sparse pendulum-swingup point-mass-easy reacher-easy reacher-hard
# Planned on copies of the simulator, seconds to minutes an episode; pictures take 30 to 50 MB an episode.
collect dm-control 20 0.25 ball-in-cup-catch
collect minatar 4 0.25 freeway
collect atari 4 0.25 freeway
