from nncf_ext.graph import Edge, Graph, Node, Parameter
from nncf_ext.quantization.postprocessing import around_choices

WEIGHT = (Parameter("weight", "w", (4, 4), 0, 1),)


def test_what_follows_a_choice_stays_in_floating_point_up_to_the_last_weight() -> None:
    """Scores -> top-k -> box decoding are left; the layer that reads chosen regions, and what it needs, is not."""
    nodes = (
        Node("image", "Input"),
        Node("head", "Gemm", parameters=WEIGHT),
        Node("top", "TopK"),
        Node("regions", "Gather"),
        Node("box_head", "Gemm", parameters=WEIGHT),
        Node("best", "TopK"),
        Node("decode", "Mul"),
        Node("boxes", "Output"),
    )
    names = [node.name for node in nodes]
    edges = (*(Edge(a, b) for a, b in zip(names, names[1:], strict=False)), Edge("head", "decode", 0, 1))
    assert around_choices(Graph(nodes, edges)) == {"best", "decode"}


def test_what_only_prepares_a_choice_stays_in_floating_point_too() -> None:
    """Boxes are decoded, then some are kept by their scores. The maps are an output as well: what makes them is not left."""
    nodes = (
        Node("image", "Input"),
        Node("head", "Gemm", parameters=WEIGHT),
        Node("scaled", "Mul"),
        Node("decode", "Add"),
        Node("score", "Sigmoid"),
        Node("kept", "TopK"),
        Node("boxes", "Gather"),
        Node("maps", "Output"),
        Node("found", "Output"),
    )
    edges = tuple(
        Edge(*ends)
        for ends in [
            ("image", "head"),
            ("head", "scaled"),
            ("scaled", "maps"),
            ("scaled", "decode"),
            ("scaled", "score"),
            ("score", "kept"),
            ("decode", "boxes"),
            ("kept", "boxes", 0, 1),
            ("boxes", "found"),
        ]
    )
    assert around_choices(Graph(nodes, edges)) == {"decode", "score", "kept", "boxes"}
