"""The names of the classes of the named data sets, in the order of their labels."""

from torchvision.datasets import FashionMNIST

DIGITS = tuple("0123456789")
FASHION = tuple(FashionMNIST.classes)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
wolf woman worm
"""

CLASS_NAMES = {
    "cifar10": CIFAR10,
    "cifar100": tuple(CIFAR100.split()),
    "digits100": tuple(left + right for left in DIGITS for right in DIGITS),
    "fashion100": tuple(f"{left}, {right}" for left in FASHION for right in FASHION),
    "fashion_mnist": FASHION,
}
